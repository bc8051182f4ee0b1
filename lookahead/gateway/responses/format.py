"""Answers as OpenAI's /v1/responses writes them, whole and as its events."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lookahead.gateway.answer import Answer
from lookahead.gateway.choice import Choice, Piece
from lookahead.gateway.errors import ApiError
from lookahead.gateway.responses.items import STARTS, deltas, ended, item, part
from lookahead.gateway.responses.schema import ResponsesRequest
from lookahead.gateway.responses.tools import names_of
from lookahead.gateway.streams.blocks import Blocks, Step, blocks_of
from lookahead.gateway.streams.format import Event
from lookahead.gateway.usage import Usage, parameters, speculation

STATUS = {"stop": "completed", "tool_calls": "completed", "length": "incomplete"}


@dataclass(frozen=True, slots=True)
class ResponsesFormat:
    """The answers to one request, some of whose fields they repeat."""

    request: ResponsesRequest

    def body(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a finished answer."""
        choice = answer.choices[0]
        status = STATUS[choice.finish_reason]
        key = answer.caller.request_id
        found = self.response(answer, status)
        names = names_of(self.request.tools)
        found["output"] = [item(block, key, status, names) for block in blocks_of(choice)]
        found["usage"] = _usage(Usage.of(answer))
        found["lookahead"] = speculation(answer)
        if status == "incomplete":
            found["incomplete_details"] = {"reason": "max_output_tokens"}
        return found

    def stream(self, answer: Answer) -> "EventWriter":
        """Return what writes the answer as a stream."""
        return EventWriter(self, answer)

    def response(self, answer: Answer, status: str) -> dict[str, Any]:
        """Return the fields that are known from the start."""
        request = self.request.model_dump(by_alias=True, exclude_none=True)
        sampling = parameters(answer)
        return {
            "id": f"resp_{answer.caller.request_id}",
            "object": "response",
            "created_at": answer.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": self.request.instructions or None,
            "max_output_tokens": self.request.max_output_tokens,
            "model": answer.model,
            "output": [],
            "parallel_tool_calls": self.request.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": self.request.reasoning.effort, "summary": None},
            "store": False,
            "temperature": sampling["temperature"],
            "text": request["text"],
            "tool_choice": request["tool_choice"],
            "tools": request["tools"],
            "top_p": sampling["top_p"],
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
        }


class EventWriter:
    """Named events with running numbers."""

    def __init__(self, form: ResponsesFormat, answer: Answer) -> None:
        self._format = form
        self._answer = answer
        self._names = names_of(form.request.tools)
        self._blocks = Blocks()
        self._number = 0

    def begin(self, choice: Choice) -> Iterable[Event]:
        """What the answer begins with."""
        for name in ("created", "in_progress"):
            response = self._format.response(self._answer, "in_progress")
            yield self._event(f"response.{name}", response=response)

    def add(self, choice: Choice, piece: Piece) -> Iterable[Event]:
        """What a piece adds."""
        for step in self._blocks.add(piece):
            yield from self._step(step)

    def end(self) -> Iterable[Event]:
        """The whole answer once more."""
        response = self._format.body(self._answer)
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> Iterable[Event]:
        """What ends a stream that fails."""
        response = self._format.response(self._answer, "failed")
        response["error"] = {"code": error.code or "server_error", "message": str(error)}
        yield self._event("error", code=error.code, message=str(error), param=error.param)
        yield self._event("response.failed", response=response)

    def _step(self, step: Step) -> Iterable[Event]:
        block, key = step.block, self._answer.caller.request_id
        place = {"output_index": block.index}
        inner = {**place, "item_id": item(block, key, "in_progress", self._names)["id"]}
        if block.kind != "call":
            inner["content_index"] = 0
        if step.begins:
            begun = item(block, key, "in_progress", self._names, is_empty=True)
            yield self._event("response.output_item.added", item=begun, **place)
            if block.kind in STARTS:
                yield self._event("response.content_part.added", part=part(block.kind, ""), **inner)
        if step.text:
            name, fields = deltas(block, step.text)
            yield self._event(name, **inner, **fields)
        if step.ends:
            for name, fields in ended(block, self._names):
                yield self._event(name, **inner, **fields)
            done = item(block, key, "completed", self._names)
            yield self._event("response.output_item.done", item=done, **place)

    def _event(self, name: str, /, **fields: object) -> Event:
        number, self._number = self._number, self._number + 1
        return Event({"type": name, "sequence_number": number, **fields}, name)


def _usage(found: Usage) -> dict[str, Any]:
    return {
        "input_tokens": found.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": found.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": found.num_output_tokens,
        "output_tokens_details": {"reasoning_tokens": found.num_reasoning_tokens},
        "total_tokens": found.num_prompt_tokens + found.num_output_tokens,
    }
