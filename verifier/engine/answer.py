"""What the client of a sequence is told: text, counts and the end. Lives on the event loop.

The tokens of a step come here while the next pass runs, all in one call. A stop string is found
here, so it ends a sequence a step late; what the sequence has said since then is not told, and
counts nowhere.
"""

import asyncio
import ctypes
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, field
from functools import partial
from threading import Event as Flag

from rpc.contract import Source
from verifier.engine.clock import Clock, PlainStep
from verifier.engine.events import Completion, Event, PromptRun, TokenRun, VerifiedDraft
from verifier.request import Request
from verifier.sampling.ranking import TokenLogprobs
from verifier.speculation.tree import DraftTree
from verifier.text.detokenizer import Detokenizer
from verifier.text.stopping import Finish, FinishReason, Output

POLL_S = 1.0
# Unlike Python's own, it keeps the interpreter's lock: whoever is woken waits for it, and not we.
_write = ctypes.PyDLL(None).write


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Emission:
    """What one step says for a sequence: ids and length have ended it where they must."""

    token_ids: list[int]
    path: list[int]  # accepted nodes of the tree; the tokens of the first ones
    tree: DraftTree
    logprobs: Sequences[TokenLogprobs]
    plain: PlainStep  # what the step would have taken without drafts
    at: float
    num_reused: int  # leading prompt tokens whose rows were there already


@dataclass(slots=True)
class Told:
    """What became of an emission, after stop handling."""

    num_tokens: int
    num_verified: int  # nodes of the tree that was verified
    sources: tuple[Source, ...]  # of the emitted tokens that were drafted
    is_first: bool  # they begin the output, and come from the prompt's last row

    @property
    def num_accepted(self) -> int:
        """Drafted tokens emitted."""
        return len(self.sources)


@dataclass(slots=True)
class Stats:
    """What drafting did for a sequence."""

    num_steps: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    accept_lens: Counter[int] = field(default_factory=Counter)

    def count(self, told: Told) -> None:
        """Count one step."""
        if told.is_first:
            return
        self.num_steps += 1
        self.num_drafts += told.num_verified > 0
        self.num_draft_tokens += told.num_verified
        self.accept_lens[told.num_accepted] += 1

    @property
    def num_accepted(self) -> int:
        """Drafted tokens emitted."""
        return sum(length * count for length, count in self.accept_lens.items())

    @property
    def histogram(self) -> tuple[int, ...]:
        """Steps by accept length, from 0 up."""
        return tuple(self.accept_lens[n] for n in range(max(self.accept_lens, default=-1) + 1))


class Answer:
    """One request's events. The engine's thread reads what has come of them."""

    def __init__(self, request: Request, detokenizer: Detokenizer, clock: Clock) -> None:
        self.stats = Stats()
        self.num_tokens = 0  # told
        self.num_read = 0  # taken by the client
        self.is_over = False
        self.on_news: Callable[[], object] = lambda: None  # more was read, or the end found
        self._request, self._clock = request, clock
        self._output = Output(detokenizer, request.stopping)
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def tell(self, emission: Emission) -> Told | None:
        """Pass a step's tokens on one by one, as plain decoding would; what follows an end is cut.

        None where the end came before.
        """
        if self.is_over:
            return None
        first_index = self.num_tokens
        finish = self._push(emission)
        num_tokens = self.num_tokens - first_index
        told = Told(num_tokens, len(emission.tree), _sources(emission, num_tokens), not first_index)
        self.stats.count(told)
        self._note_time(emission, told)
        if num_tokens:
            self._events.put_nowait(self._run(first_index, emission, told))
        if finish is not None:
            self.complete(finish, emission.num_reused, emission.at)
        return told

    def tell_prompt(self, run: PromptRun) -> None:
        """Pass on what was read of the prompt."""
        self._events.put_nowait(run)

    def complete(self, finish: Finish, num_reused: int, at: float) -> None:
        """End, unless that was so before."""
        if self.is_over:
            return
        self._end(at)
        phases = self._clock.phases()
        self._events.put_nowait(
            Completion(
                finish=finish,
                text=self._output.flush(),
                num_prompt_tokens=len(self._request.prompt_token_ids),
                num_output_tokens=self.num_tokens,
                num_reused_tokens=num_reused,
                queue_ms=phases.queue_s * 1e3,
                prefill_ms=phases.prefill_s * 1e3,
                decode_ms=phases.decode_s * 1e3,
                plain_decode_ms=self._clock.plain_decode_s * 1e3,
                num_steps=self.stats.num_steps,
                num_drafts=self.stats.num_drafts,
                num_draft_tokens=self.stats.num_draft_tokens,
                num_accepted_tokens=self.stats.num_accepted,
                accept_len_histogram=self.stats.histogram,
            )
        )

    def fail(self, error: Exception) -> None:
        """End with an error instead of a completion."""
        if not self.is_over:
            self._end(time.perf_counter())
            self._events.put_nowait(error)

    @property
    def has_more(self) -> bool:
        """Whether the client may read on without a wait."""
        return not self._events.empty()

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield events up to the completion; raise the error of a failed sequence."""
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Completion):
                return
            if isinstance(event, TokenRun):
                self.num_read += len(event.token_ids)  # whoever asks for more has taken it
                self.on_news()

    def _push(self, emission: Emission) -> Finish | None:
        if not emission.token_ids:  # only the prompt was to be read
            return Finish(FinishReason.LENGTH)
        for index, token_id in enumerate(emission.token_ids):
            self.num_tokens += 1
            finish = self._output.push(token_id, is_drafted=index < len(emission.path))
            if finish is not None:
                return finish
        return None

    def _note_time(self, emission: Emission, told: Told) -> None:
        if told.is_first:
            self._clock.first_token = emission.at
        else:
            plain = emission.plain
            self._clock.plain_decode_s += told.num_tokens * plain.token_s + plain.prompts_s

    def _run(self, first_index: int, emission: Emission, told: Told) -> TokenRun:
        text, drafted_len = self._output.take_text()
        draft = None
        if self._request.draft_trees and emission.tree:
            accepted = tuple(emission.path[: told.num_accepted])
            draft = VerifiedDraft(emission.tree, accepted)
        return TokenRun(
            first_index=first_index,
            token_ids=tuple(emission.token_ids[: told.num_tokens]),
            text=text,
            num_drafted=told.num_accepted,
            drafted_text_len=drafted_len,
            logprobs=tuple(emission.logprobs[: told.num_tokens]),
            sources=told.sources if emission.tree.sources else (),
            draft=draft,
        )

    def _end(self, at: float) -> None:
        self._clock.ended = at
        self.is_over = True
        self.on_news()


def _sources(emission: Emission, num_tokens: int) -> tuple[Source, ...]:
    sources, path = emission.tree.sources, emission.path[:num_tokens]
    return tuple(Source.of(sources[i]) if sources else Source.UNKNOWN for i in path)


class Outbox:
    """From the engine's thread to the event loop: all that a step has to say, in one call.

    The engine is at most one such call ahead, so what clients are told never falls behind it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[], object] = lambda: None
    ) -> None:
        """Made on the event loop. `on_error`: a call failed, and `check` says so."""
        self._loop, self._on_error = loop, on_error
        self._gathered: list[Callable[[], object]] = []
        self._handed: list[Callable[[], object]] = []
        self._is_empty = Flag()  # nothing is handed over that was not told
        self._is_empty.set()
        self._error: Exception | None = None
        self._reader, self._writer = os.pipe()
        loop.add_reader(self._reader, self._read)

    # --- in the engine's thread

    def add(self, function: Callable[..., object], *arguments: object) -> None:
        """Gather a call; made on the event loop after `send`."""
        self._gathered.append(partial(function, *arguments))

    def send(self) -> None:
        """Hand over what was gathered, once the calls before it are made.

        The loop is woken without a pause for it: it goes on as soon as this thread computes.
        """
        if self._gathered:
            self.wait()
            self._is_empty.clear()
            self._handed, self._gathered = self._gathered, []
            _write(self._writer, b"!", 1)

    def wait(self) -> None:
        """Wait until all calls that were handed over are made."""
        while not self._is_empty.wait(POLL_S):
            if self._loop.is_closed():  # which makes no call any more
                return

    def check(self) -> None:
        """Raise the error of a call that failed."""
        if self._error is not None:
            raise self._error

    # --- on the event loop

    def close(self) -> None:
        """Make what is left to be made; nothing is sent any more."""
        self._loop.remove_reader(self._reader)
        self._make()
        os.close(self._reader)
        os.close(self._writer)

    def _read(self) -> None:
        os.read(self._reader, 1)
        self._make()

    def _make(self) -> None:
        calls, self._handed = self._handed, []
        try:
            for call in calls:
                call()
        except Exception as error:
            self._error = error
            self._on_error()
        finally:
            self._is_empty.set()
