"""The engine loop: admit, draft, forward, accept, commit, emit.

The loop has a thread of its own, the one that computes. Requests come to it through the scheduler,
and what a step says leaves it in one call, which the event loop works on during the next pass. A
sequence that is cancelled leaves at the next step.
"""

import asyncio
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from verifier.config import VerifierConfig
from verifier.engine.admission import Admission
from verifier.engine.answer import Emission, Outbox
from verifier.engine.clock import PlainStep
from verifier.engine.counters import Counters, PlainTime, StepStats
from verifier.engine.draft_coordinator import DraftCoordinator
from verifier.engine.pace import Pace
from verifier.engine.prefill import Prefill
from verifier.engine.scheduler import Scheduler
from verifier.engine.sequence import Sequence
from verifier.engine.step import (
    DeviceLost,
    Drafts,
    PassFailed,
    Result,
    StepResult,
    Work,
    decode_work,
    run_step,
)
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Request
from verifier.speculation.draft_source import DraftSource
from verifier.text.stopping import Finish, FinishReason
from verifier.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# A pass takes the interpreter's lock again after each of its hundreds of operations. This is how
# long it may wait for it: 5 ms unless said otherwise, which slows the passes of eight streams by a
# fifth.
SWITCH_S = 0.0005


class EngineError(RuntimeError):
    """A step failed on the device; its sequences end with this error."""


class Engine:
    """Runs sequences to their end. All that is public is called on the event loop."""

    def __init__(
        self,
        model: TargetModel,
        tokenizer: Tokenizer,
        drafts: DraftSource | None,
        measured: Measurements,
        config: VerifierConfig,
        counters: Counters,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:
        """`worker`: the one thread that the model was loaded in, where there is one.

        OpenMP keeps a team for each thread that computes. With two of them there are more threads
        than processors; then they stop waiting for work awake, and every pass takes longer.
        """
        self.model = model
        self.counters = counters
        self.drafting = DraftCoordinator(drafts, model, measured)
        self.pass_began = 0.0  # time of the pass that runs now; 0 while none does
        self.on_death: Callable[[str], object] = lambda reason: None
        self._tokenizer = tokenizer
        self._curve = measured.curve
        self._plain_time = PlainTime(measured.curve)
        self._prefill = Prefill(model, config.prefill_rows)
        self._step_ended = 0.0
        # A pass that failed has changed states, but no rows that count.
        self._keeps_states = model.form in (VerificationMode.CHAIN, VerificationMode.PLAIN)
        self._scheduler: Scheduler[Sequence] = Scheduler(
            max_running=model.slots.num_slots, max_waiting=config.max_waiting
        )
        self._admission = Admission(model, self._scheduler, config, counters)
        self._begun: dict[int, Sequence] = {}  # those that ran and are not released, by id
        self._pace = Pace(model.slots.num_slots)
        self._ids = itertools.count(1)
        self._wake = threading.Event()
        self._is_stopping = False
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._outbox: Outbox
        self._loop: asyncio.Future[None] | None = None

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold a slot."""
        return tuple(self._scheduler.running)

    @property
    def num_running(self) -> int:
        """How many they are."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one, those included that wait for their clients to read on."""
        return self._scheduler.num_waiting + len(self._scheduler.parked)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait for a slot."""
        now = time.perf_counter()
        running_s = [now - sequence.clock.admitted for sequence in self.running]
        return self._pace.wait_s(self.num_waiting, running_s)

    def start(self) -> None:
        """Run the loop in its thread."""
        sys.setswitchinterval(SWITCH_S)
        self.drafting.start(self._wake.set)
        loop = asyncio.get_running_loop()
        self._outbox = Outbox(loop, on_error=self._wake.set)
        self._loop = loop.run_in_executor(self._worker, self._run)
        self._loop.add_done_callback(self._end_all)

    async def stop(self) -> None:
        """End running sequences cleanly with what they have, then the loop."""
        self._is_stopping = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait([self._loop])
        await self.drafting.stop()
        self._worker.shutdown()

    def _end_all(self, loop: asyncio.Future[None]) -> None:
        """The loop has ended: cleanly if it was told to, else with an error for everyone."""
        self._outbox.close()
        error = loop.exception()
        for sequence in [*self._scheduler.running, *self._scheduler.drain()]:
            if error is None:
                finish = Finish(FinishReason.SHUTDOWN)
                sequence.answer.complete(finish, sequence.num_reused, time.perf_counter())
            else:
                sequence.answer.fail(EngineError(f"the engine died: {error!r}"))
        if error is not None:
            logger.critical("engine_died", exc_info=error)
            self.on_death(f"the engine died: {error!r}")

    def submit(self, request: Request) -> Sequence:
        """Queue a request, or raise scheduler.QueueFull."""
        detokenizer = self._tokenizer.detokenizer(special_tokens=request.special_tokens)
        sequence = Sequence(next(self._ids), request, detokenizer)
        sequence.answer.on_news = self._wake.set
        self._scheduler.enqueue(sequence)
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Give the sequence's slot back before the next step; harmless after its end."""
        sequence.is_cancelled = True
        if not sequence.clock.admitted:
            self._scheduler.withdraw(sequence)
        self._wake.set()

    # --- in the engine's thread

    def _run(self) -> None:
        self._step_ended = time.perf_counter()
        while not self._is_stopping:
            self._wake.clear()
            self._outbox.check()
            self._let_go()
            for sequence in self._admission.admit():
                self._begun[sequence.id] = sequence
                self.drafting.open(sequence)
            ready = self._admission.ready()
            if ready:
                self._step(ready)
            else:
                self._rest()
        self._outbox.send()
        self._outbox.wait()
        self._let_go()

    def _rest(self) -> None:
        """Tell clients and the drafter what is left to be told, and wait for work."""
        self._outbox.send()
        self.drafting.rest()
        self._wake.wait()
        self._step_ended = time.perf_counter()

    def _let_go(self) -> None:
        """Release those whose text came to its end, and those that were cancelled."""
        over = [s for s in self._begun.values() if s.answer.is_over or s.is_cancelled]
        for sequence in over:
            if sequence.answer.is_over:  # a client may cancel once it has read the end
                sequence.cut()
            self._release(sequence, learn=sequence.answer.is_over)

    def _release(self, sequence: Sequence, *, learn: bool) -> None:
        del self._begun[sequence.id]
        self._pace.ended(time.perf_counter() - sequence.clock.admitted)
        self._admission.release(sequence)
        self.drafting.close(sequence, learn=learn)

    def _step(self, running: list[Sequence]) -> None:
        """One iteration: the drafts asked for after the last step, one pass, its consequences."""
        drafts = self.drafting.drafts(running)
        works = self._admission.with_pages(self._plan(running, drafts))
        step = self._forward(works) if works else None
        if step is None:
            return
        plain, now = self._plain_time.of(works, step.forward_s), time.perf_counter()
        emissions = [self._settle(result, plain, now) for result in step.results]
        stats = self._measure(works, step, emissions, drafts)
        self.drafting.learn(step, stats)
        self.drafting.ask([s for s in self._scheduler.running if self._admission.may_run(s)])
        self._outbox.add(self.counters.count_step, stats)

    def _plan(self, running: list[Sequence], drafts: Drafts) -> list[Work]:
        """Every decoding sequence with its draft, then prompts in what room is left."""
        length = self.model.slots.length
        works = [decode_work(s, length(s.slot), drafts) for s in running if s.is_decoding]
        prompts = [s for s in running if not s.is_decoding]
        if prompts:
            works += self._prefill.works(prompts, drafts, is_alone=len(running) == 1)
        return works

    def _forward(self, works: list[Work]) -> StepResult | None:
        """Run the step; a failure ends its sequences and nothing else.

        A pass that failed is not what all of them need: the one with the most rows ends, which may
        have taken too much memory, and the others are tried again.
        """
        self.pass_began = time.perf_counter()
        try:
            # What the last step said is told while this pass runs.
            return run_step(self.model, works, meanwhile=self._outbox.send)
        except DeviceLost:
            raise
        except Exception as error:
            logger.exception("step_failed sequences=%d", len(works))
            self._step_ended = time.perf_counter()
            can_repeat = isinstance(error, PassFailed) and not self._keeps_states
            failed = [max(works, key=lambda w: w.segment.num_rows)] if can_repeat else works
            for work in failed:
                self._fail(work.sequence, EngineError(f"the model's step failed: {error}"))
            return None
        finally:
            self.pass_began = 0.0

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._outbox.add(sequence.answer.fail, error)
        self._release(sequence, learn=False)

    def _settle(self, result: Result, plain: PlainStep, now: float) -> int:
        """Take a sequence's tokens and let its client know; return how many it decoded.

        A sequence ends here by its ids or its length, unless its text may have ended it before.
        """
        sequence, accepted = result.sequence, result.accepted
        if result.scored is not None:
            self._outbox.add(sequence.answer.tell_prompt, result.scored)
        if result.error is not None:
            self._fail(sequence, result.error)
        if accepted is None:
            return 0
        is_first = not sequence.num_output
        count = sequence.take(accepted.token_ids)
        emission = Emission(
            token_ids=accepted.token_ids[:count],
            path=accepted.path[:count],
            tree=result.tree,
            logprobs=result.logprobs,
            plain=plain,
            at=now,
            num_reused=sequence.num_reused,
        )
        self._outbox.add(self._tell, sequence, emission)
        self.drafting.observe(result)
        if sequence.is_over and not sequence.request.stopping.stop_strings:
            self._release(sequence, learn=True)
        return 0 if is_first else count

    def _measure(
        self, works: list[Work], step: StepResult, emitted: list[int], drafts: Drafts
    ) -> StepStats:
        """Count a step that has just ended, and follow what it took."""
        now = time.perf_counter()
        stats = StepStats.of(
            works,
            step,
            emitted,
            is_drafting=drafts.is_drafting,
            step_s=now - self._step_ended,
            draft_wait_s=drafts.wait_s,
        )
        self._step_ended = now
        self._plain_time.track(stats.step_s - stats.forward_s - stats.draft_wait_s)
        is_one_pass = self.model.form is VerificationMode.PACKED or len(works) == 1
        if is_one_pass and not stats.num_prompt_rows:
            self._curve.track(step.num_rows, step.forward_s)
        return stats

    # --- on the event loop

    def _tell(self, sequence: Sequence, emission: Emission) -> None:
        told = sequence.answer.tell(emission)
        if told is not None:
            self.counters.count_emission(sequence, told)
