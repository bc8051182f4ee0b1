"""The state of one request from submission to its last event."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, field

from rpc.contract import Learn, Source
from verifier.engine.clock import Clock, PlainStep
from verifier.engine.events import Completion, Event, PromptRun, TokenRun, VerifiedDraft
from verifier.request import Mode, Request
from verifier.sampling.ranking import TokenLogprobs
from verifier.sampling.sampler import Sampler
from verifier.speculation.tree import Accepted, DraftTree
from verifier.text.detokenizer import Detokenizer
from verifier.text.stopping import Finish, FinishReason, Output

NO_SLOT = -1
READ_PRICE = 0.25  # of a prompt's token: a pass reads many of them, and writes one or a few


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Emission:
    """What one step emitted for a sequence, after stop handling."""

    num_tokens: int
    num_verified: int  # nodes of the tree that was verified
    sources: tuple[Source, ...]  # of the emitted tokens that were drafted
    is_first: bool  # they begin the output, and come from the prompt's last row
    finish: Finish | None

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

    def count(self, emission: Emission) -> None:
        """Count one step."""
        if emission.is_first:
            return
        self.num_steps += 1
        self.num_drafts += emission.num_verified > 0
        self.num_draft_tokens += emission.num_verified
        self.accept_lens[emission.num_accepted] += 1

    @property
    def num_accepted(self) -> int:
        """Drafted tokens emitted."""
        return sum(length * count for length, count in self.accept_lens.items())

    @property
    def histogram(self) -> tuple[int, ...]:
        """Steps by accept length, from 0 up."""
        return tuple(self.accept_lens[n] for n in range(max(self.accept_lens, default=-1) + 1))


class Sequence:
    """One running request. The engine owns it; its client reads the events."""

    def __init__(self, sequence_id: int, request: Request, detokenizer: Detokenizer) -> None:
        self.id = sequence_id
        self.request = request
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_known = self.num_prompt  # tokens whose rows come before the next one is chosen
        self.num_unread = 0  # tokens that the client was told and has not taken
        self.on_read: Callable[[], None] = lambda: None
        self.slot = NO_SLOT
        self.num_reused = 0  # leading prompt tokens whose rows were there already
        self.is_cancelled = False
        self.clock = Clock()
        self.stats = Stats()
        self.sampler = Sampler(
            request.sampling,
            request.prompt_token_ids,
            ending_ids=request.stopping.ending_ids,
            min_tokens=request.stopping.min_tokens,
            matcher=None if request.grammar is None else request.grammar.start(),
        )
        self.output = Output(detokenizer, request.stopping)
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    @property
    def namespace(self) -> str:
        """Whose memory it uses."""
        return self.request.speculation.namespace

    @property
    def account(self) -> str:
        """Who pays for it."""
        return self.request.account

    @property
    def service(self) -> float:
        """What it has received: its tokens, those of the prompt at their lower price."""
        num_read = self.num_prompt - self.num_reused if self.num_output else 0
        return self.num_output + READ_PRICE * num_read

    @property
    def row_namespace(self) -> str | None:
        """Who may share its rows; None: nobody, since the request wants nothing remembered."""
        speculation = self.request.speculation
        shares = speculation.mode is not Mode.OFF and speculation.learn is Learn.ALL
        return speculation.namespace if shares else None

    @property
    def uses_drafts(self) -> bool:
        """Whether drafts may be verified for it."""
        return self.request.speculation.mode is not Mode.OFF

    @property
    def has_free_drafts(self) -> bool:
        """Whether the budget decides how much of its drafts is verified."""
        return self.request.speculation.mode is Mode.AUTO

    @property
    def is_scored(self) -> bool:
        """Whether the log probabilities of its prompt are wanted."""
        return self.request.num_prompt_logprobs is not None

    @property
    def num_output(self) -> int:
        """Tokens emitted."""
        return len(self.token_ids) - self.num_prompt

    @property
    def is_decoding(self) -> bool:
        """Its prompt is read: its first token is out."""
        return len(self.token_ids) > self.num_known

    def park(self) -> None:
        """Give the slot up; its rows are to be computed again from all its tokens."""
        self.slot = NO_SLOT
        self.num_known = len(self.token_ids)

    @property
    def num_left(self) -> int:
        """Tokens it may still emit."""
        return self.request.stopping.max_tokens - self.num_output

    def emit(
        self,
        accepted: Accepted,
        tree: DraftTree,
        logprobs: Sequences[TokenLogprobs],
        plain: PlainStep,
    ) -> Emission:
        """Emit a step's tokens one by one, as plain decoding would; what follows an end is cut.

        `plain`: what the step would have taken without drafts.
        """
        first_index = self.num_output
        finish = self._push(accepted)
        num_tokens = self.num_output - first_index
        path = accepted.path[:num_tokens]
        sources = tuple(
            Source.of(tree.sources[i]) if tree.sources else Source.UNKNOWN for i in path
        )
        emission = Emission(num_tokens, len(tree), sources, first_index == 0, finish)
        self.stats.count(emission)
        if emission.is_first:
            self.clock.first_token = time.perf_counter()
        else:
            self.clock.plain_decode_s += num_tokens * plain.token_s + plain.prompts_s
        self._tell(first_index, accepted, tree, emission, logprobs)
        return emission

    def _push(self, accepted: Accepted) -> Finish | None:
        if not accepted.token_ids:  # only the prompt was to be read
            return Finish(FinishReason.LENGTH)
        for i, token_id in enumerate(accepted.token_ids):
            finish = self.output.push(token_id, is_drafted=i < len(accepted.path))
            self.token_ids.append(token_id)
            if finish is not None:
                return finish
        return None

    def _tell(
        self,
        first_index: int,
        accepted: Accepted,
        tree: DraftTree,
        emission: Emission,
        logprobs: Sequences[TokenLogprobs],
    ) -> None:
        """Send the client what was emitted."""
        if not emission.num_tokens:
            return
        self.num_unread += emission.num_tokens
        text, drafted_len = self.output.take_text()
        num_accepted = emission.num_accepted
        draft = None
        if self.request.draft_trees and tree:
            draft = VerifiedDraft(tree, tuple(accepted.path[:num_accepted]))
        self.events.put_nowait(
            TokenRun(
                first_index=first_index,
                token_ids=tuple(accepted.token_ids[: emission.num_tokens]),
                text=text,
                num_drafted=num_accepted,
                drafted_text_len=drafted_len,
                logprobs=tuple(logprobs[: emission.num_tokens]),
                sources=emission.sources if tree.sources else (),
                draft=draft,
            )
        )

    def tell_prompt(self, run: PromptRun) -> None:
        """Send the client what was read of the prompt."""
        self.events.put_nowait(run)

    def complete(self, finish: Finish) -> None:
        """Send the last event."""
        self.clock.ended = time.perf_counter()
        phases = self.clock.phases()
        self.events.put_nowait(
            Completion(
                finish=finish,
                text=self.output.flush(),
                num_prompt_tokens=self.num_prompt,
                num_output_tokens=self.num_output,
                num_reused_tokens=self.num_reused,
                queue_ms=phases.queue_s * 1e3,
                prefill_ms=phases.prefill_s * 1e3,
                decode_ms=phases.decode_s * 1e3,
                plain_decode_ms=self.clock.plain_decode_s * 1e3,
                num_steps=self.stats.num_steps,
                num_drafts=self.stats.num_drafts,
                num_draft_tokens=self.stats.num_draft_tokens,
                num_accepted_tokens=self.stats.num_accepted,
                accept_len_histogram=self.stats.histogram,
            )
        )

    def fail(self, error: Exception) -> None:
        """End with an error instead of a completion."""
        self.clock.ended = time.perf_counter()
        self.events.put_nowait(error)

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield events up to the completion; raise the error of a failed sequence."""
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Completion):
                return
            self.num_unread -= len(event.token_ids)  # whoever asks for more has taken it
            self.on_read()
