"""The calls of a verifier, each once for both clients: the request, and what its answer means."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from lookahead.client.conversation import chat_messages
from lookahead.client.requests import GenerateParams, generate_request
from lookahead.client.responses import to_model_info
from lookahead.client.results import ChatMessage, ModelInfo
from protos import verifier_pb2 as pb
from protos import verifier_pb2_grpc as pb_grpc
from rpc.tracing import outgoing_metadata

# Unary calls answer at once or not at all; a generation takes as long as it takes.
UNARY_TIMEOUT_S = 30.0
Answer = TypeVar("Answer")
Metadata = list[tuple[str, str]]


def key_metadata(key: str | None) -> Metadata:
    """What calls carry for their API key."""
    return [("authorization", f"Bearer {key}")] if key else []


@dataclass(frozen=True, slots=True)
class UnaryCall(Generic[Answer]):
    """One request and its one response."""

    method: str
    request: Message
    read: Callable[[Any], Answer]  # of the method's response

    def send(self, stub: pb_grpc.VerifierServiceStub, credentials: Metadata) -> Any:
        """Return the response, or what an event loop waits for it with: that is the stub's."""
        method = getattr(stub, self.method)
        return method(self.request, timeout=UNARY_TIMEOUT_S, metadata=credentials)


def model() -> UnaryCall[ModelInfo]:
    """Ask for the description of the model."""
    return UnaryCall("GetModel", pb.GetModelRequest(), to_model_info)


def tokenize(text: str, *, special_tokens: bool) -> UnaryCall[list[int]]:
    """Ask for the ids of a text."""
    return _tokenize(pb.TokenizeRequest(text=text, without_special_tokens=not special_tokens))


def tokenize_chat(messages: Iterable[ChatMessage]) -> UnaryCall[list[int]]:
    """Ask for the ids of a conversation."""
    return _tokenize(pb.TokenizeRequest(chat=chat_messages(messages)))


def _tokenize(request: pb.TokenizeRequest) -> UnaryCall[list[int]]:
    return UnaryCall("Tokenize", request, lambda response: list(response.token_ids))


def detokenize(token_ids: Iterable[int], *, special_tokens: bool) -> UnaryCall[str]:
    """Ask for the text of ids."""
    request = pb.DetokenizeRequest(token_ids=token_ids, special_tokens=special_tokens)
    return UnaryCall("Detokenize", request, lambda response: str(response.text))


def generate(
    stub: pb_grpc.VerifierServiceStub,
    prompt: str | None,
    messages: Iterable[ChatMessage] | None,
    token_ids: Iterable[int] | None,
    timeout_s: float | None,
    params: GenerateParams,
    credentials: Metadata,
) -> Any:
    """Start a generation; return the stub's call, of whose kind a stream is made."""
    request = generate_request(prompt, messages, token_ids, params)
    return stub.Generate(request, timeout=timeout_s, metadata=[*outgoing_metadata(), *credentials])
