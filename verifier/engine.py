"""The engine loop: admit, draft, forward, accept, commit, emit.

The loop's state lives on the event loop; each step's tensor work runs in one worker thread while
the loop waits for it. A sequence that is cancelled leaves at the next step.
"""

import asyncio
import itertools
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from verifier.config import VerifierConfig
from verifier.draft_client import DraftClient
from verifier.measurements import Measurements
from verifier.model import Form, TargetModel
from verifier.planner import Planner
from verifier.prefix_cache import PrefixCache
from verifier.request import Request
from verifier.scheduler import Scheduler
from verifier.sequence import NO_SLOT, Sequence
from verifier.step import Result, StepResult, Work, run_step
from verifier.stopping import Finish, FinishReason
from verifier.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# A draft may take this share of a plain step before the step goes on without it.
DRAFT_SHARE = 0.25
MAX_DRAFT_WAIT_S = 0.02


class EngineError(RuntimeError):
    """A step failed on the device; its sequences end with this error."""


class Engine:
    """Runs sequences to their end. `submit` and `cancel` are called on the event loop."""

    def __init__(
        self,
        model: TargetModel,
        tokenizer: Tokenizer,
        drafts: DraftClient | None,
        measured: Measurements,
        config: VerifierConfig,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._drafts = drafts if model.form is not Form.PLAIN else None
        self._curve = measured.curve
        self._planner = Planner(model, self._drafts, measured, config.prefill_rows)
        self._must_be_plain = False  # a choice was too close to call in the last pass
        self._scheduler: Scheduler[Sequence] = Scheduler(
            max_running=model.slots.num_slots, max_waiting=config.max_waiting
        )
        self._prefixes = PrefixCache(model.slots)
        self._ids = itertools.count(1)
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._task: asyncio.Task[None] | None = None

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""
        return self._scheduler.num_waiting

    @property
    def drafter_connected(self) -> bool:
        """Whether drafts can come."""
        return self._drafts is not None and self._drafts.is_connected

    def start(self) -> None:
        """Run the loop in the background."""
        if self._drafts is not None:
            self._drafts.start()
        self._task = asyncio.create_task(self._run(), name="engine")
        self._task.add_done_callback(self._end_all)

    async def stop(self) -> None:
        """End running sequences cleanly with what they have, then the loop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._drafts is not None:
            await self._drafts.stop()
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

    def submit(self, request: Request) -> Sequence:
        """Queue a request, or raise scheduler.QueueFull."""
        detokenizer = self._tokenizer.detokenizer(special_tokens=request.special_tokens)
        sequence = Sequence(next(self._ids), request, detokenizer)
        self._scheduler.enqueue(sequence)
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Give the sequence's slot back before the next step; harmless after its end."""
        sequence.is_cancelled = True
        if sequence.slot == NO_SLOT:
            self._scheduler.remove(sequence)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._drop_cancelled()
            self._admit()
            if not self._scheduler.running:
                self._wake.clear()
                self._ask_for_drafts()  # tells the drafter about those that just ended
                await self._wake.wait()
                continue
            await self._step()

    async def _step(self) -> None:
        """One iteration: the drafts asked for after the last step, one pass, its consequences."""
        await self._await_drafts()
        works = self._planner.plan(self._scheduler.running, is_plain=self._must_be_plain)
        step = await self._forward(works)
        self._must_be_plain = False
        for result in step.results if step else []:
            self._settle(result)
        if step is not None and all(w.segment.tree is not None and not w.is_alone for w in works):
            self._curve.track(step.num_rows, step.forward_s)
        self._ask_for_drafts()
        # Let clients read and new requests in, even when no draft is waited for.
        await asyncio.sleep(0)

    def _admit(self) -> None:
        for sequence in self._scheduler.admit():
            sequence.slot, sequence.num_reused = self._prefixes.take(
                sequence.namespace, sequence.token_ids, may_reuse=not sequence.is_exact
            )
            sequence.clock.admitted = time.perf_counter()
            if self._drafts is not None and sequence.uses_drafts:
                self._drafts.open(
                    sequence.id,
                    sequence.token_ids,
                    sequence.num_prompt,
                    sequence.request.speculation,
                )
                self._drafts.request({})  # the drafter reads the prompt while the model does

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self._scheduler.running if s.is_cancelled]:
            self._release(sequence, learn=False)

    def _release(self, sequence: Sequence, *, learn: bool) -> None:
        self._scheduler.remove(sequence)
        self._prefixes.give(sequence.slot)
        if self._drafts is not None:
            self._drafts.close(sequence.id, learn=learn)

    async def _forward(self, works: list[Work]) -> StepResult | None:
        """Run the step in the worker; a failure ends its sequences and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._worker, run_step, self.model, works)
        except Exception as error:
            logger.exception("step_failed sequences=%d", len(works))
            for work in works:
                work.sequence.fail(EngineError(f"the model's step failed: {error}"))
                self._release(work.sequence, learn=False)
            return None

    def _settle(self, result: Result) -> None:
        """Emit a sequence's tokens, tell the drafter, and end it if it is at its end."""
        sequence = result.sequence
        if result.error is not None:
            sequence.fail(result.error)
            self._release(sequence, learn=False)
        if result.accepted is None:
            return
        self._must_be_plain |= result.accepted.is_broken_off
        finish = sequence.emit(result.accepted, result.tree, result.logprobs)
        if self._drafts is not None:
            self._drafts.observe(
                sequence.id,
                # What follows a walk that was broken off says nothing about the draft.
                num_verified=0 if result.accepted.is_broken_off else len(result.tree),
                successors=result.successors,
            )
        if finish is not None:
            sequence.complete(finish)
            self._release(sequence, learn=True)

    def _ask_for_drafts(self) -> None:
        if self._drafts is None:
            return
        self._drafts.request(
            {
                sequence.id: sequence.request.speculation.max_nodes
                for sequence in self._scheduler.running
                if sequence.uses_drafts and sequence.num_output and sequence.num_left > 1
            }
        )

    async def _await_drafts(self) -> None:
        if self._drafts is None or not any(s.num_output for s in self._scheduler.running):
            return
        await self._drafts.wait(min(DRAFT_SHARE * self._curve.plain_s, MAX_DRAFT_WAIT_S))
