"""The engine loop: admit, draft, forward, accept, commit, emit.

The loop's state lives on the event loop; each step's tensor work runs in one worker thread while
the loop waits for it. A sequence that is cancelled leaves at the next step.
"""

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from verifier.config import VerifierConfig
from verifier.engine.admission import Admission
from verifier.engine.clock import PlainStep
from verifier.engine.counters import Counters, PlainTime, StepStats
from verifier.engine.draft_coordinator import DraftCoordinator
from verifier.engine.pace import Pace
from verifier.engine.scheduler import Scheduler
from verifier.engine.sequence import NO_SLOT, Emission, Sequence
from verifier.engine.plan import Drafts, Planner, Work
from verifier.engine.step import DeviceLost, PassFailed, Result, StepResult, run_step
from verifier.model.measurements import Measurements
from verifier.model.model import TargetModel, VerificationMode
from verifier.request import Request
from verifier.speculation.draft_source import DraftSource
from verifier.text.stopping import Finish, FinishReason
from verifier.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# A pass runs in a thread of its own and takes the interpreter's lock again after each of its
# hundreds of operations. This is how long it may wait for it: 5 ms unless said otherwise, which
# slows the passes of eight streams by a fifth.
SWITCH_S = 0.0005


class EngineError(RuntimeError):
    """A step failed on the device; its sequences end with this error."""


class Engine:
    """Runs sequences to their end. `submit` and `cancel` are called on the event loop."""

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
        self._tokenizer = tokenizer
        self._curve = measured.curve
        self._plain_time = PlainTime(measured.curve)
        self._planner = Planner(model, config.prefill_rows)
        self._step_ended = 0.0
        # A pass that failed has changed states, but no rows that count.
        self._keeps_states = model.form in (VerificationMode.CHAIN, VerificationMode.PLAIN)
        self.pass_began = 0.0  # time of the pass that runs now; 0 while none does
        self.on_death: Callable[[str], object] = lambda reason: None
        self._scheduler: Scheduler[Sequence] = Scheduler(
            max_running=model.slots.num_slots, max_waiting=config.max_waiting
        )
        self._admission = Admission(model, self._scheduler, config, counters)
        self._pace = Pace(model.slots.num_slots)
        self._ids = itertools.count(1)
        self._wake = asyncio.Event()
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._task: asyncio.Task[None] | None = None

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one, those included that wait for their clients to read on."""
        return self._scheduler.num_waiting + len(self._scheduler.parked)

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait for a slot."""
        now = time.perf_counter()
        running_s = [now - s.clock.admitted for s in self._scheduler.running]
        return self._pace.wait_s(self.num_waiting, running_s)

    def start(self) -> None:
        """Run the loop in the background."""
        sys.setswitchinterval(SWITCH_S)
        self.drafting.start()
        self._task = asyncio.create_task(self._run(), name="engine")
        self._task.add_done_callback(self._end_all)

    async def stop(self) -> None:
        """End running sequences cleanly with what they have, then the loop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.drafting.stop()
        self._worker.shutdown()

    def _end_all(self, task: asyncio.Task[None]) -> None:
        """The loop has ended: cleanly if it was cancelled, else with an error for everyone."""
        for sequence in [*self._scheduler.running, *self._scheduler.drain()]:
            if task.cancelled():
                sequence.complete(Finish(FinishReason.SHUTDOWN))
            else:
                sequence.fail(EngineError(f"the engine died: {task.exception()!r}"))
        if not task.cancelled():
            logger.critical("engine_died", exc_info=task.exception())
            self.on_death(f"the engine died: {task.exception()!r}")

    def submit(self, request: Request) -> Sequence:
        """Queue a request, or raise scheduler.QueueFull."""
        detokenizer = self._tokenizer.detokenizer(special_tokens=request.special_tokens)
        sequence = Sequence(next(self._ids), request, detokenizer)
        sequence.on_read = self._wake.set
        self._scheduler.enqueue(sequence)
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Give the sequence's slot back before the next step; harmless after its end."""
        sequence.is_cancelled = True
        if sequence.slot == NO_SLOT:
            self._scheduler.remove(sequence)
            if sequence.clock.admitted:  # it ran before
                self.drafting.close(sequence, learn=False)
        self._wake.set()

    async def _run(self) -> None:
        self._step_ended = time.perf_counter()
        while True:
            self._wake.clear()
            self._drop_cancelled()
            for sequence in self._admission.admit():
                self.drafting.open(sequence)
            ready = self._admission.ready()
            if not ready:
                self.drafting.ask([])  # tells the drafter about those that just ended
                await self._wake.wait()
                self._step_ended = time.perf_counter()
                continue
            await self._step(ready)

    async def _step(self, running: list[Sequence]) -> None:
        """One iteration: the drafts asked for after the last step, one pass, its consequences."""
        drafts = await self.drafting.drafts(running)
        works = self._admission.with_pages(self._planner.plan(running, drafts))
        step = await self._forward(works) if works else None
        if step is None:
            return
        plain = self._plain_time.of(works, step.forward_s)
        emissions = [self._settle(result, plain) for result in step.results]
        stats = self._measure(works, step, emissions, drafts)
        self.drafting.learn(step, stats)
        self.drafting.ask([s for s in self._scheduler.running if not self._admission.is_paused(s)])
        self.counters.count_step(stats)
        # Let clients read and new requests in, even when no draft is waited for.
        await asyncio.sleep(0)

    def _measure(
        self,
        works: list[Work],
        step: StepResult,
        emissions: list[Emission | None],
        drafts: Drafts,
    ) -> StepStats:
        """Count a step that has just ended, and follow what it took."""
        now = time.perf_counter()
        stats = StepStats.of(
            works,
            step,
            num_emitted=sum(e.num_tokens for e in emissions if e and not e.is_first),
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

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self._scheduler.running if s.is_cancelled]:
            self._release(sequence, learn=False)

    def _release(self, sequence: Sequence, *, learn: bool) -> None:
        self._pace.ended(time.perf_counter() - sequence.clock.admitted)
        self._admission.release(sequence)
        self.drafting.close(sequence, learn=learn)

    async def _forward(self, works: list[Work]) -> StepResult | None:
        """Run the step in the worker; a failure ends its sequences and nothing else.

        A pass that failed is not what all of them need: the one with the most rows ends, which may
        have taken too much memory, and the others are tried again.
        """
        loop = asyncio.get_running_loop()
        self.pass_began = time.perf_counter()
        try:
            return await loop.run_in_executor(self._worker, run_step, self.model, works)
        except DeviceLost:
            raise
        except Exception as error:
            logger.exception("step_failed sequences=%d", len(works))
            self._step_ended = time.perf_counter()
            can_repeat = isinstance(error, PassFailed) and not self._keeps_states
            failed = [max(works, key=lambda w: w.segment.num_rows)] if can_repeat else works
            for work in failed:
                work.sequence.fail(EngineError(f"the model's step failed: {error}"))
                self._release(work.sequence, learn=False)
            return None
        finally:
            self.pass_began = 0.0

    def _settle(self, result: Result, plain: PlainStep) -> Emission | None:
        """Emit a sequence's tokens, tell the drafter, and end it if it is at its end."""
        sequence = result.sequence
        if result.scored is not None:
            sequence.tell_prompt(result.scored)
        if result.error is not None:
            sequence.fail(result.error)
            self._release(sequence, learn=False)
        if result.accepted is None:
            return None
        emission = sequence.emit(result.accepted, result.tree, result.logprobs, plain)
        self.counters.count_emission(sequence, emission)
        self.drafting.observe(result)
        if emission.finish is not None:
            sequence.complete(emission.finish)
            self._release(sequence, learn=True)
        return emission
