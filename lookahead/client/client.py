"""The Python client for plain code; `AsyncClient` has the same calls for asyncio."""

import json
from collections.abc import Iterable
from typing import Any, Unpack

from lookahead.client import calls
from lookahead.client.calls import Answer, UnaryCall, key_metadata
from lookahead.client.closing import Closing
from lookahead.client.errors import translated
from lookahead.client.requests import GenerateParams
from lookahead.client.results import ChatMessage, ModelInfo
from lookahead.client.stream import Stream
from protos import verifier_pb2_grpc as pb_grpc
from rpc.tls import TlsFiles, open_channel

DEFAULT_ADDRESS = "127.0.0.1:50051"
OPTIONS = [
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    # A server that died without a word is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A new client must not inherit the back-off of one that tried before the server was up.
    ("grpc.use_local_subchannel_pool", 1),
]


def retries(max_attempts: int) -> dict[str, Any]:
    """How gRPC tries a call again that no server began, on another one where there is one.

    Servers that stop turn new calls away, and gRPC cancels what reaches them before the news does.
    """
    return {
        "name": [{"service": "lookahead.v1.VerifierService"}],
        "retryPolicy": {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 3,
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        },
    }


# Gives up after about two seconds.
RETRIES = ("grpc.service_config", json.dumps({"methodConfig": [retries(5)]}))


class Client(Closing):
    """Talks to one verifier. Safe to share between threads; close it, or use `with`."""

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
        self._channel = open_channel(address, tls, [*OPTIONS, RETRIES])
        self._stub = pb_grpc.VerifierServiceStub(self._channel)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[ChatMessage] | None = None,
        token_ids: Iterable[int] | None = None,
        timeout_s: float | None = None,
        **params: Unpack[GenerateParams],
    ) -> Stream:
        """Continue a prompt, a conversation or token ids; iterate the stream for text."""
        call = calls.generate(
            self._stub, prompt, messages, token_ids, timeout_s, params, self._credentials
        )
        return Stream(call)

    def model(self) -> ModelInfo:
        """Describe the model served."""
        return self._answer(calls.model())

    def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Return the ids of a text."""
        return self._answer(calls.tokenize(text, special_tokens=special_tokens))

    def tokenize_chat(self, messages: Iterable[ChatMessage]) -> list[int]:
        """Return the ids of a conversation, rendered with the model's chat template."""
        return self._answer(calls.tokenize_chat(messages))

    def detokenize(self, token_ids: Iterable[int], *, special_tokens: bool = False) -> str:
        """Return the text of ids."""
        return self._answer(calls.detokenize(token_ids, special_tokens=special_tokens))

    def close(self) -> None:
        """Cancel what runs and close the connection."""
        self._channel.close()

    def _answer(self, call: UnaryCall[Answer]) -> Answer:
        with translated():
            return call.read(call.send(self._stub, self._credentials))
