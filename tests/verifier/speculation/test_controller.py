"""In simulated worlds that lie, change and disturb, drafting loses next to nothing in the long run,
and where it pays it is kept on."""

import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.speculation.budget import Offer, StepCurve, choose_nodes
from verifier.speculation.controller import (
    FIRST_REFERENCES,
    LIMIT,
    MAX_NAMESPACES,
    PRIOR,
    PRIOR_KEPT,
    REFILL,
    Controller,
)

pytestmark = pytest.mark.slow

NEWCOMER = PRIOR_KEPT / PRIOR
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def curve(jump: float, slope: float) -> StepCurve:
    """One second for one row, `jump` more for any second one, `slope` more for each."""
    return StepCurve(ROWS, [1.0 + jump * (n > 1) + slope * (n - 1) for n in ROWS])


@dataclass
class World:
    """An engine without a model: chains of drafts, tokens right with a chance, steps with a cost.

    `said` and `true`: the probability that the next token of a chain is right, as the drafter says
    and as it is; `load(step)`: how many times slower the machine is.
    """

    believed: StepCurve
    actual: StepCurve
    said: float
    true: Callable[[int], float]
    load: Callable[[int], float] = lambda step: 1.0
    overhead: float = 0.0  # of a drafting step, as a share of a plain one
    num_sequences: int = 1
    seconds: float = 0.0
    plain_seconds: float = 0.0  # what plain decoding would have taken for the same tokens
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.controller = Controller(self.believed.plain_units())
        self.num_drafting = 0

    def run(self, num_steps: int) -> "World":
        for step in range(num_steps):
            self._step(step)
        return self

    @property
    def speed_up(self) -> float:
        return self.plain_seconds / self.seconds

    def _step(self, step: int) -> None:
        drafted, n = self.controller.allows_drafts, self.num_sequences
        nodes = self._choose() if drafted else [0] * n
        lens = [self._accepted(count, self.true(step)) for count in nodes]
        for count, length in zip(nodes, lens, strict=True):
            if drafted:
                promised = sum(self.said**i for i in range(1, count + 1))
                self.controller.trust.record("", promised, length)
        rows, emitted = n + sum(nodes), n + sum(lens)
        load = self.load(step) * self.rng.uniform(0.9, 1.1)
        plain_s = load * float(self.actual.seconds(np.array([n]))[0])
        forward_s = load * float(self.actual.seconds(np.array([rows]))[0])
        seconds = forward_s + (self.overhead * plain_s if drafted else 0.0)
        self.believed.track(rows, forward_s)
        self.controller.record(
            num_sequences=n, num_emitted=emitted, seconds=seconds, drafted=drafted
        )
        self.num_drafting += drafted
        self.seconds += seconds
        self.plain_seconds += emitted / n * plain_s

    def _choose(self) -> list[int]:
        trust = self.controller.trust.of("")
        chain = Offer(np.array([trust * self.said**i for i in range(1, 25)]), 0)
        n = self.num_sequences
        return choose_nodes(self.believed, [chain] * n, n, n)

    def _accepted(self, count: int, chance: float) -> int:
        length = 0
        while length < count and self.rng.random() < chance:
            length += 1
        return length


probability = st.floats(0.0, 0.97)


@settings(max_examples=25, deadline=None)
@given(
    said=probability,
    true=probability,
    believed=st.tuples(st.floats(0, 0.3), st.floats(0, 0.1)),
    actual=st.tuples(st.floats(0, 1.5), st.floats(0, 0.3)),
    overhead=st.floats(0, 0.3),
    num_sequences=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 9),
)
def test_whatever_drafter_and_curve_say_it_is_never_slower(
    said: float,
    true: float,
    believed: tuple[float, float],
    actual: tuple[float, float],
    overhead: float,
    num_sequences: int,
    seed: int,
) -> None:
    world = World(
        curve(*believed),
        curve(*actual),
        said,
        lambda step: true,
        overhead=overhead,
        num_sequences=num_sequences,
        rng=random.Random(seed),
    )
    assert world.run(2500).speed_up >= 0.98


@pytest.mark.parametrize("period", [40, 300, 1500])
@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_a_changing_load_makes_it_no_slower(period: int, factor: float) -> None:
    def load(step: int) -> float:
        return factor if step // period % 2 else 1.0

    for true in (0.0, 0.1, 0.8):
        world = World(curve(0, 0.03), curve(0.1, 0.05), 0.5, lambda step, t=true: t, load=load)
        assert world.run(4000).speed_up >= 0.98, true


def test_what_pays_stays_on_while_the_load_changes() -> None:
    world = World(
        curve(0, 0.03),
        curve(0.05, 0.04),
        0.8,
        lambda step: 0.8,
        load=lambda step: 4.0 if step // 200 % 2 else 1.0,
    )
    world.run(4000)
    assert world.controller.num_backoffs == 0
    assert world.num_drafting > 0.95 * 4000
    assert world.controller.gain_ratio == pytest.approx(world.speed_up, rel=0.25)


def test_the_gain_reported_is_the_gain_there_is() -> None:
    world = World(curve(0, 0.03), curve(0, 0.03), 0.7, lambda step: 0.7, num_sequences=4).run(2000)
    assert world.controller.gain_ratio == pytest.approx(world.speed_up, rel=0.15)


def test_a_liar_is_found_out_and_an_honest_namespace_is_not_punished() -> None:
    controller = Controller(lambda n: 1.0)
    for _ in range(100):
        controller.trust.record("liar", 5.0, 0)
        controller.trust.record("honest", 5.0, 5)
    assert controller.trust.of("liar") < 0.05
    assert controller.trust.of("honest") > 0.98
    assert controller.trust.of("new") == NEWCOMER


def test_distrust_fades() -> None:
    controller = Controller(lambda n: 1.0)
    for _ in range(100):
        controller.trust.record("a", 5.0, 0)
    for _ in range(20_000):
        controller.trust.record("a", 0.0, 0)
    assert controller.trust.of("a") > 0.9 * NEWCOMER


def test_namespaces_without_number_take_no_memory_without_bound() -> None:
    controller = Controller(lambda n: 1.0)
    for i in range(3 * MAX_NAMESPACES):
        controller.trust.record(f"tenant-{i}", 5.0, 0)
    assert controller.trust.of("tenant-0") == NEWCOMER, "the oldest is not forgotten"
    assert controller.trust.of(f"tenant-{3 * MAX_NAMESPACES - 1}") < NEWCOMER


def test_losing_switches_off_with_one_line_and_winning_later_stays_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    controller = Controller(lambda n: 1.0)
    with caplog.at_level(logging.INFO, "verifier.speculation.controller"):
        spend(controller, 100, seconds=2.0, emitted=1)
        assert not controller.is_on
        assert controller.gain_ratio == pytest.approx(0.5)
        spend(controller, 3000, seconds=0.5, emitted=1)
    assert controller.is_on
    assert (controller.num_backoffs, controller.num_probes) == (1, 1)
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "speculation_off",
        "speculation_on",
    ]


def test_steps_that_compare_with_nothing_bring_the_next_try_nearer() -> None:
    controller = Controller(lambda n: 1.0)
    spend(controller, 100, seconds=2.0, emitted=1)
    assert not controller.is_on
    for _ in range(3000):
        controller.rest()
    assert controller.is_on
    assert controller.num_probes == 1, "while it is on, there is nothing to wait for"


def test_slow_first_drafts_do_not_put_a_fresh_server_off() -> None:
    controller = Controller(lambda n: 1.0)
    spend(controller, FIRST_REFERENCES + 8, seconds=1.0 + LIMIT / 8, emitted=1)
    spend(controller, 500, seconds=1.0, emitted=2)
    assert controller.is_on
    assert controller.num_backoffs == 0


def test_failed_probes_come_ever_later() -> None:
    controller = Controller(lambda n: 1.0)
    starts = []
    for step in range(40_000):
        before = controller.num_probes
        spend(controller, 1, seconds=1.5, emitted=1)
        if controller.num_probes > before:
            starts.append(step)
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert len(gaps) >= 3
    assert gaps[0] > LIMIT / REFILL
    assert all(b >= 0.9 * a for a, b in itertools.pairwise(gaps))
    assert gaps[-1] > 3 * gaps[0]


def test_a_server_starts_with_the_plain_steps_that_it_compares_with() -> None:
    controller = Controller(lambda n: 1.0)
    allowed = []
    for _ in range(FIRST_REFERENCES + 1):
        allowed.append(controller.allows_drafts)
        spend(controller, 1, seconds=0.5, emitted=1)
    assert allowed == [False] * FIRST_REFERENCES + [True]


def spend(controller: Controller, num_steps: int, *, seconds: float, emitted: int) -> None:
    """Steps of one sequence: plain ones take a second, drafting ones `seconds`."""
    for _ in range(num_steps):
        drafted = controller.allows_drafts
        controller.record(
            num_sequences=1,
            num_emitted=emitted if drafted else 1,
            seconds=seconds if drafted else 1.0,
            drafted=drafted,
        )


@pytest.mark.parametrize("seed", range(4))
def test_hiccups_of_the_machine_hide_no_loss(seed: int) -> None:
    """A plain step that happens to be slow must not make drafting look cheap."""
    hiccups = random.Random(seed)
    world = World(
        curve(0, 0.03),
        curve(0.1, 0.05),
        0.5,
        lambda step: 0.0,
        load=lambda step: 5.0 if hiccups.random() < 0.1 else 1.0,
        overhead=0.3,
    )
    assert world.run(4000).speed_up >= 0.98
