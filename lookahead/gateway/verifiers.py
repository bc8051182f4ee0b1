"""The verifiers behind this gateway. Calls take turns, and go to the next verifier if one fails.

Only what has not begun is tried again: once a generation started, its failure is the client's.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookahead.client.calls import UNARY_TIMEOUT_S, key_metadata
from lookahead.client.client import OPTIONS as CLIENT_OPTIONS
from lookahead.client.client import retries
from lookahead.client.errors import ResourceExhausted, ServerError, Unavailable, from_rpc_error
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.tls import TlsFiles, open_async_channel
from rpc.tracing import outgoing_metadata

OPTIONS = [
    *CLIENT_OPTIONS,
    # A verifier that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A client that does not read must not make us hold its answer: keep the windows small.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 8_192),
    # A name may stand for many verifiers, new ones among them; those that stop are left out.
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": ""},
                "methodConfig": [retries(3)],  # within half a second
            }
        ),
    ),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
MODEL_AGE_S = 5.0  # for which a description of the model is believed

Result = TypeVar("Result")


class GenerationCall:
    """A generation that has started; close it."""

    def __init__(self, call: Any) -> None:  # grpc publishes no types for calls
        self._call = call
        self._responses = aiter(call)
        self.started = pb.Started()

    async def start(self) -> None:
        """Wait for the first message."""
        self.started.CopyFrom((await self._next()).started)

    async def events(self) -> AsyncIterator[pb.GenerateResponse]:
        """Yield what follows the first message, the end included."""
        event = None
        while event != "finished":
            response = await self._next()
            event = response.WhichOneof("event")
            yield response

    def close(self) -> None:
        """Cancel what still runs."""
        self._call.cancel()

    async def _next(self) -> pb.GenerateResponse:
        try:
            response: pb.GenerateResponse = await anext(self._responses)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except StopAsyncIteration:
            raise ServerError("the verifier ended the stream without a final message") from None
        return response


class Verifier:
    """One address."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        self.address = address
        self.channel = open_async_channel(address, tls, OPTIONS)
        self.stub = pb_grpc.VerifierServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def is_connected(self) -> bool:
        """Whether a call would find it; connects in the background if not."""
        state = self.channel.get_state(try_to_connect=True)
        return bool(state == grpc.ChannelConnectivity.READY)

    async def connect(self, timeout_s: float) -> None:
        """Return once connected; Unavailable when that fails or takes longer than allowed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected()
        except TimeoutError:
            problem = f"{self.address} does not answer within {timeout_s:g} s"
            raise Unavailable(f"no verifier is ready: {problem}") from None

    async def _connected(self) -> None:
        state = self.channel.get_state(try_to_connect=True)
        while state != grpc.ChannelConnectivity.READY:
            if state == grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                problem = f"{self.address} cannot be reached, or is loading or stopping"
                raise Unavailable(f"no verifier is ready: {problem}")
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)


class Verifiers:
    """All of them, in turn."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        connect_timeout_s: float,
        tls: TlsFiles | None = None,
        key: str = "",
    ) -> None:
        self.all = [Verifier(address, tls) for address in addresses]
        self._credentials = key_metadata(key)
        self._connect_timeout_s = connect_timeout_s / len(addresses)
        self._turn = 0
        self._model: pb.GetModelResponse | None = None
        self._model_time = 0.0

    async def generate(self, request: pb.GenerateRequest, *, timeout_s: float) -> GenerationCall:
        """Start a generation on the first verifier that takes it."""

        async def start(verifier: Verifier) -> GenerationCall:
            generating = GenerationCall(
                verifier.stub.Generate(request, timeout=timeout_s, metadata=self._metadata())
            )
            try:
                await generating.start()
            except BaseException:
                generating.close()
                raise
            return generating

        return await self._first(start)

    async def model(self) -> pb.GetModelResponse:
        """Describe the model served; the description may be a few seconds old."""
        now = time.monotonic()
        if self._model is None or now - self._model_time > MODEL_AGE_S:
            model: pb.GetModelResponse = await self._call(
                lambda v: v.stub.GetModel, pb.GetModelRequest()
            )
            self._model, self._model_time = model, now
        return self._model

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        """Return the ids of a text or a conversation."""
        return await self._call(lambda v: v.stub.Tokenize, request)

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        """Return the text of ids."""
        return await self._call(lambda v: v.stub.Detokenize, request)

    async def check(self, timeout_s: float) -> None:
        """Return if a verifier serves; Unavailable says why none does."""

        async def ask(verifier: Verifier) -> None:
            try:
                check = verifier.health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
                status = (await check).status
            except grpc.RpcError as error:
                raise Unavailable(f"{verifier.address}: {from_rpc_error(error)}") from None
            if status != health_pb2.HealthCheckResponse.SERVING:
                raise Unavailable(f"the verifier at {verifier.address} is loading or stopping")

        await self._first(ask)

    async def close(self) -> None:
        """Cancel what runs and close the connections."""
        for verifier in self.all:
            await verifier.channel.close()

    async def _call(
        self,
        method: Callable[[Verifier], Callable[..., Awaitable[Result]]],
        request: Message,
    ) -> Result:
        async def ask(verifier: Verifier) -> Result:
            try:
                return await method(verifier)(
                    request, timeout=UNARY_TIMEOUT_S, metadata=self._metadata()
                )
            except grpc.RpcError as error:
                raise from_rpc_error(error) from None

        return await self._first(ask)

    def _metadata(self) -> list[tuple[str, str]]:
        return [*outgoing_metadata(), *self._credentials]

    async def _first(self, ask: Callable[[Verifier], Awaitable[Result]]) -> Result:
        """Ask each verifier in turn until one accepts; else raise a full one's error first."""
        refusal: Unavailable | ResourceExhausted | None = None
        self._turn += 1
        for i in range(len(self.all)):
            verifier = self.all[(self._turn + i) % len(self.all)]
            try:
                await verifier.connect(self._connect_timeout_s)
                return await ask(verifier)
            except (Unavailable, ResourceExhausted) as error:
                if not isinstance(refusal, ResourceExhausted):
                    refusal = error
        assert refusal is not None
        raise refusal
