"""The shape of a stream: which tokens share a message.

How many tokens a step brings depends on the drafts, and so on the text. Whoever sees the sizes and
times of encrypted messages can guess from them what was asked. A stream in another shape than its
steps tells less: runs of as many tokens, or one message an interval, filled up to whole blocks.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from itertools import groupby

from protos import verifier_pb2 as pb
from verifier.engine.answer import Answer
from verifier.engine.events import Completion, Event, TokenRun

BLOCK_BYTES = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """As steps bring tokens, unless one of both is set."""

    num_tokens: int = 0  # in each message but the last
    interval_s: float = 0.0  # between messages

    def events(self, answer: Answer) -> AsyncGenerator[Event, None]:
        """What the answer says, in this shape."""
        if self.num_tokens:
            return _in_runs(answer, self.num_tokens)
        if self.interval_s:
            return _at_intervals(answer, self.interval_s)
        return answer.stream()

    def fill(self, reply: pb.GenerateResponse) -> pb.GenerateResponse:
        """The message, filled up to a whole number of blocks where the shape hides its steps."""
        if self.num_tokens or self.interval_s:
            reply.padding = bytes(_num_missing(reply.ByteSize()))
        return reply


def _num_missing(num_bytes: int) -> int:
    """Bytes of padding after which a message is whole blocks; their own head counts."""
    missing = -(num_bytes + 3) % BLOCK_BYTES  # a tag, and a length of two bytes
    if missing < 127:
        return missing + 1  # its length takes one byte
    return missing if missing > 127 else missing + BLOCK_BYTES  # 127 fits neither way


async def _in_runs(answer: Answer, num_tokens: int) -> AsyncGenerator[Event, None]:
    held: deque[TokenRun] = deque()
    async for event in answer.stream():
        if isinstance(event, TokenRun):
            held.append(event)
            while sum(len(run.token_ids) for run in held) >= num_tokens:
                yield _joined(_take(held, num_tokens))
        else:
            if held:
                yield _joined(held)
            yield event


def _take(held: deque[TokenRun], num_tokens: int) -> list[TokenRun]:
    """The first tokens. The text of a run that is cut goes with its last token."""
    taken = []
    while num_tokens:
        run = held.popleft()
        if len(run.token_ids) > num_tokens:
            run, rest = _split(run, num_tokens)
            held.appendleft(rest)
        taken.append(run)
        num_tokens -= len(run.token_ids)
    return taken


def _split(run: TokenRun, at: int) -> tuple[TokenRun, TokenRun]:
    head = TokenRun(run.first_index, run.token_ids[:at], "", logprobs=run.logprobs[:at])
    rest = TokenRun(run.first_index + at, run.token_ids[at:], run.text, logprobs=run.logprobs[at:])
    return head, rest


async def _at_intervals(answer: Answer, interval_s: float) -> AsyncGenerator[Event, None]:
    loop = asyncio.get_running_loop()
    due = loop.time()
    stream = answer.stream()
    async for event in stream:
        await asyncio.sleep(due - loop.time())
        found = [event]
        while answer.has_more and not isinstance(found[-1], Completion):
            found.append(await anext(stream))
        for each in _with_runs_joined(found):
            yield each
        due += interval_s * (1 + max(loop.time() - due, 0.0) // interval_s)


def _with_runs_joined(events: Iterable[Event]) -> Iterable[Event]:
    for is_run, group in groupby(events, lambda event: isinstance(event, TokenRun)):
        if is_run:
            yield _joined(run for run in group if isinstance(run, TokenRun))
        else:
            yield from group


def _joined(runs: Iterable[TokenRun]) -> TokenRun:
    """One run of all tokens; which of them were drafted stays untold."""
    first, *others = runs
    all_runs = (first, *others)
    return TokenRun(
        first.first_index,
        tuple(token_id for run in all_runs for token_id in run.token_ids),
        "".join(run.text for run in all_runs),
        logprobs=tuple(logprobs for run in all_runs for logprobs in run.logprobs),
    )
