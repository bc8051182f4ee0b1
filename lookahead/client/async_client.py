"""The Python client for asyncio; the same calls as `lookahead.client.client`."""

from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from lookahead.client.client import DEFAULT_ADDRESS, OPTIONS, RETRIES, UNARY_TIMEOUT_S, Response
from lookahead.client.errors import from_rpc_error
from lookahead.client.requests import GenerateParams, chat_messages, generate_request
from lookahead.client.responses import to_model_info
from lookahead.client.results import ChatMessage, ModelInfo
from lookahead.client.stream import AsyncStream
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.tls import TlsFiles, open_async_channel
from rpc.tracing import outgoing_metadata


class AsyncClient:
    """Talks to one verifier from one event loop; close it, or use `async with`."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, tls: TlsFiles | None = None) -> None:
        self.address = address
        self._channel = open_async_channel(address, tls, [*OPTIONS, RETRIES])
        self._stub = pb_grpc.VerifierServiceStub(self._channel)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[ChatMessage] | None = None,
        token_ids: Iterable[int] | None = None,
        timeout_s: float | None = None,
        **params: Unpack[GenerateParams],
    ) -> AsyncStream:
        """Continue a prompt, a conversation or token ids; iterate the stream for text."""
        request = generate_request(prompt, messages, token_ids, params)
        return AsyncStream(
            self._stub.Generate(request, timeout=timeout_s, metadata=outgoing_metadata())
        )

    async def model(self) -> ModelInfo:
        """Describe the model served."""
        return to_model_info(await self._call(self._stub.GetModel, pb.GetModelRequest()))

    async def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Return the ids of a text."""
        request = pb.TokenizeRequest(text=text, without_special_tokens=not special_tokens)
        return list((await self._call(self._stub.Tokenize, request)).token_ids)

    async def tokenize_chat(self, messages: Iterable[ChatMessage]) -> list[int]:
        """Return the ids of a conversation, rendered with the model's chat template."""
        request = pb.TokenizeRequest(chat=chat_messages(messages))
        return list((await self._call(self._stub.Tokenize, request)).token_ids)

    async def detokenize(self, token_ids: Iterable[int], *, special_tokens: bool = False) -> str:
        """Return the text of ids."""
        request = pb.DetokenizeRequest(token_ids=token_ids, special_tokens=special_tokens)
        text: str = (await self._call(self._stub.Detokenize, request)).text
        return text

    async def close(self) -> None:
        """Cancel what runs and close the connection."""
        await self._channel.close()

    async def _call(self, method: Callable[..., Awaitable[Response]], request: Message) -> Response:
        try:
            return await method(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
