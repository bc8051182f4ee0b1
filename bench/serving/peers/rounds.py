"""Rounds in which every way does every task, in turn: whatever else runs here hits all alike."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from bench.serving.peers.protocol import Answer
from bench.serving.peers.samples import Row, Sample, Spent, decoding
from bench.serving.peers.tasks import Prompts, Task
from bench.serving.peers.ways import System, Way
from bench.serving.peers.worker import PeerUnavailable

SETTLE_S = 0.2  # threads of the last system that still spin; answers that are being learned


@dataclass(slots=True)
class Rounds:
    """The systems that are loaded with weights of one type, and why others are not."""

    dtype: str
    systems: dict[Way, System]
    skipped: dict[Way, str] = field(default_factory=dict)

    def measure(
        self, prompts: Prompts, tasks: set[str], rounds: int, tokens: int
    ) -> Iterator[Sample]:
        """All samples of the named tasks; a system that fails is left out from there on."""
        for number in range(rounds):
            for place, task in enumerate(prompts.tasks(number, tokens)):
                if task.name in tasks:
                    yield from self._do(task, number, place)

    def _do(self, task: Task, number: int, place: int) -> Iterator[Sample]:
        for way in _rotated(list(self.systems), number + place):
            if task.is_reading and way.method != "plain":
                continue
            try:
                yield from self._visit(way, task, number)
            except PeerUnavailable as error:
                self.skipped[way] = str(error)
                del self.systems[way]

    def _visit(self, way: Way, task: Task, number: int) -> Iterator[Sample]:
        system = self.systems[way]
        if task.is_reading:
            yield self._sample(task, number, Row(way.system, way.method), _read(system, task))
            return
        for memory, spent in _decode(system, task, way.remembers).items():
            yield self._sample(task, number, Row(way.system, way.method, memory), spent)

    def _sample(self, task: Task, number: int, row: Row, spent: Spent) -> Sample:
        return Sample(self.dtype, task.name, row, number, **asdict(spent))


def _read(system: System, task: Task) -> Spent:
    time.sleep(SETTLE_S)
    answers = [system.answer(batch, 1)[0] for batch in task.batches]
    num_tokens = sum(len(batch[0]) for batch in task.batches)
    return Spent(sum(answer.first_s for answer in answers), num_tokens, None, [])


def _decode(system: System, task: Task, remembers: bool) -> dict[str, Spent]:
    """The answers to each batch; with a memory, once while it is empty and then once more."""
    memories = ("cold", "warm") if remembers else ("",)
    answers: dict[str, list[list[Answer]]] = {memory: [] for memory in memories}
    for batch in task.batches:
        system.forget()
        system.read(batch)
        for memory in memories:
            time.sleep(SETTLE_S)
            answers[memory].append(system.answer(batch, task.max_tokens))
    return {memory: decoding(found) for memory, found in answers.items()}


def _rotated(ways: list[Way], by: int) -> list[Way]:
    """Everyone is first in turn."""
    start = by % max(1, len(ways))
    return ways[start:] + ways[:start]
