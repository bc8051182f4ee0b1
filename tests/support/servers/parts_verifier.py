"""A verifier whose answers are made of parts that a test has written down, one message for each."""

from collections.abc import Iterator, Sequence
from typing import Any

from protos import verifier_pb2 as pb
from tests.support.servers.fake_verifier import FakeVerifier

Kind = pb.MessagePart.Kind.ValueType


def thought(text: str) -> pb.MessagePart:
    """A piece of what is thought."""
    return pb.MessagePart(kind=pb.MessagePart.KIND_REASONING, text=text)


def said(text: str) -> pb.MessagePart:
    """A piece of what is said."""
    return pb.MessagePart(kind=pb.MessagePart.KIND_CONTENT, text=text)


def call(text: str, index: int = 0, name: str = "") -> pb.MessagePart:
    """A piece of a call; the first one has the tool's name."""
    kind = pb.MessagePart.KIND_TOOL_CALL
    return pb.MessagePart(kind=kind, text=text, call_index=index, tool_name=name)


# What a model that thinks, speaks and calls says.
FULL_ANSWER = (
    thought("Rome, "),
    thought("then Oslo."),
    said("I look "),
    said("it up."),
    call('{"city": ', name="weather"),
    call('"Rome"}'),
    call('{"city": "Oslo"}', 1, "weather"),
)


class PartsVerifier(FakeVerifier):
    """Answers with `later` once it has answered, in turn; without any, all requests alike."""

    def __init__(
        self, parts: Sequence[pb.MessagePart] = FULL_ANSWER, *later: Sequence[pb.MessagePart]
    ) -> None:
        super().__init__()
        self.parts = parts
        self.later = list(later)
        self.reason = pb.Finished.FINISH_REASON_STOP

    def Generate(self, request: pb.GenerateRequest, context: Any) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        started = pb.Started(request_id=request.request_id, model="fake", num_prompt_tokens=20)
        yield pb.GenerateResponse(started=started)
        parts = self.parts
        if self.later:
            self.parts = self.later.pop(0)
        for i, part in enumerate(parts):
            tokens = pb.Tokens(first_index=i, token_ids=[i], text=part.text, parts=[part])
            yield pb.GenerateResponse(tokens=tokens)
        usage = pb.Usage(
            num_prompt_tokens=20,
            num_output_tokens=len(parts),
            num_reused_tokens=16,
            num_reasoning_tokens=2,
        )
        yield pb.GenerateResponse(finished=pb.Finished(reason=self.reason, usage=usage))
