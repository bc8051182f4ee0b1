"""The Python client for asyncio; the same calls as `lookahead.client.client`."""

from collections.abc import Iterable
from typing import Unpack

from lookahead.client import calls
from lookahead.client.calls import Answer, UnaryCall, key_metadata
from lookahead.client.client import DEFAULT_ADDRESS, OPTIONS, RETRIES
from lookahead.client.closing import AsyncClosing
from lookahead.client.errors import translated
from lookahead.client.requests import GenerateParams
from lookahead.client.results import ChatMessage, ModelInfo
from lookahead.client.stream import AsyncStream
from protos import verifier_pb2_grpc as pb_grpc
from rpc.tls import TlsFiles, open_async_channel


class AsyncClient(AsyncClosing):
    """Talks to one verifier from one event loop; close it, or use `async with`."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        tls: TlsFiles | None = None,
        key: str | None = None,
    ) -> None:
        """`key`: the API key, for a verifier that asks for one."""
        self.address = address
        self._credentials = key_metadata(key)
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
        call = calls.generate(
            self._stub, prompt, messages, token_ids, timeout_s, params, self._credentials
        )
        return AsyncStream(call)

    async def model(self) -> ModelInfo:
        """Describe the model served."""
        return await self._answer(calls.model())

    async def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Return the ids of a text."""
        return await self._answer(calls.tokenize(text, special_tokens=special_tokens))

    async def tokenize_chat(self, messages: Iterable[ChatMessage]) -> list[int]:
        """Return the ids of a conversation, rendered with the model's chat template."""
        return await self._answer(calls.tokenize_chat(messages))

    async def detokenize(self, token_ids: Iterable[int], *, special_tokens: bool = False) -> str:
        """Return the text of ids."""
        return await self._answer(calls.detokenize(token_ids, special_tokens=special_tokens))

    async def close(self) -> None:
        """Cancel what runs and close the connection."""
        await self._channel.close()

    async def _answer(self, call: UnaryCall[Answer]) -> Answer:
        with translated():
            return call.read(await call.send(self._stub, self._credentials))
