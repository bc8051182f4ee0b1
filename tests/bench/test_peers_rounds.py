"""Every system does every task in turn, its memory in the state that the row says."""

from collections.abc import Iterator

import pytest

from bench.serving.peers import rounds as rounds_module
from bench.serving.peers.protocol import Answer
from bench.serving.peers.rounds import Rounds
from bench.serving.peers.samples import Row, Sample
from bench.serving.peers.tasks import READ_LENS, STREAMS, Prompts, read_name
from bench.serving.peers.ways import (
    OURS_DRAFTED,
    OURS_PLAIN,
    VLLM_NGRAM,
    VLLM_PLAIN,
    System,
    Way,
)
from bench.serving.peers.worker import PeerUnavailable

PROMPTS = Prompts({"JSON": [[1], [2]], "chat": [[3]]}, [[1], [2], [3]], vocabulary=100)
TOKENS = 8
Call = tuple[str, str, list[list[int]]]


class Recorder:
    """A system that notes its calls; it answers faster what it answered since it last forgot."""

    def __init__(self, name: str, calls: list[Call], breaks_at: int | None = None) -> None:
        self._name, self._calls, self._breaks_at = name, calls, breaks_at
        self._known: list[list[int]] = []
        self._num_answers = 0

    def answer(self, prompts: list[list[int]], max_tokens: int) -> list[Answer]:
        self._calls.append((self._name, "answer", prompts))
        if self._num_answers == self._breaks_at:
            raise PeerUnavailable("out of memory")
        self._num_answers += 1
        seconds = 0.1 if prompts[0] in self._known else 1.0
        self._known += prompts
        return [Answer("", max_tokens, 1.0, 1.0 + seconds, 1) for _ in prompts]

    def read(self, prompts: list[list[int]]) -> None:
        self._calls.append((self._name, "read", prompts))

    def forget(self) -> None:
        self._calls.append((self._name, "forget", []))
        self._known.clear()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rounds_module, "SETTLE_S", 0.0)
    yield


def measure(systems: dict[Way, System], *tasks: str, num_rounds: int = 1) -> list[Sample]:
    return list(Rounds("float32", systems).measure(PROMPTS, set(tasks), num_rounds, TOKENS))


def test_prompts_are_read_before_the_clock_starts_and_answered_one_by_one() -> None:
    calls: list[Call] = []
    measure({OURS_PLAIN: Recorder("plain", calls)}, "JSON")
    assert [(call, prompts) for _, call, prompts in calls] == [
        ("forget", []),
        ("read", [[1]]),
        ("answer", [[1]]),
        ("forget", []),
        ("read", [[2]]),
        ("answer", [[2]]),
    ]


def test_memory_is_cold_for_every_prompt_and_warm_for_its_second_answer() -> None:
    cold, warm = measure({OURS_DRAFTED: Recorder("drafted", [])}, "JSON")
    assert (cold.row, warm.row) == tuple(Row("ours", "drafted", m) for m in ("cold", "warm"))
    assert cold.seconds == pytest.approx(2.0)
    assert warm.seconds == pytest.approx(0.2)
    assert cold.num_tokens == warm.num_tokens == 2 * (TOKENS - 1)


def test_streams_are_answered_at_once() -> None:
    calls: list[Call] = []
    (sample,) = measure({OURS_PLAIN: Recorder("plain", calls)}, STREAMS)
    assert calls[-1] == ("plain", "answer", PROMPTS.mixed)
    assert (sample.seconds, sample.num_tokens) == (1.0, 3 * (TOKENS - 1))


def test_new_prompts_are_read_in_each_round_by_plain_decoding_only() -> None:
    calls: list[Call] = []
    systems: dict[Way, System] = {
        OURS_PLAIN: Recorder("plain", calls),
        OURS_DRAFTED: Recorder("drafted", calls),
    }
    samples = measure(systems, *map(read_name, READ_LENS), num_rounds=2)
    assert {sample.row for sample in samples} == {Row("ours", "plain")}
    assert [sample.num_tokens for sample in samples] == [*READ_LENS, *READ_LENS]
    assert [sample.seconds for sample in samples] == [1.0] * 4
    read = [tuple(prompts[0]) for name, _, prompts in calls]
    assert len(set(read)) == len(read) == 4


def test_everyone_is_first_in_turn() -> None:
    calls: list[Call] = []
    ways = (OURS_PLAIN, VLLM_PLAIN, VLLM_NGRAM)
    systems: dict[Way, System] = {way: Recorder(way.name, calls) for way in ways}
    samples = measure(systems, "chat", num_rounds=3)
    firsts = [next(s.row for s in samples if s.round == number) for number in range(3)]
    assert len(set(firsts)) == 3


def test_system_that_fails_is_left_out_from_there_on_with_the_reason() -> None:
    systems: dict[Way, System] = {
        OURS_PLAIN: Recorder("ours", []),
        VLLM_PLAIN: Recorder("vllm", [], breaks_at=1),
    }
    rounds = Rounds("float32", systems)
    samples = list(rounds.measure(PROMPTS, {"chat"}, 3, TOKENS))
    assert rounds.skipped == {VLLM_PLAIN: "out of memory"}
    assert [s.round for s in samples if s.row.system == "vLLM"] == [0]
    assert [s.round for s in samples if s.row.system == "ours"] == [0, 1, 2]
