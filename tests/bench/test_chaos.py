"""A little of every attack; what must be zero is zero however short it lasts."""

import random
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.message import Message

from bench.chaos.__main__ import sections
from bench.chaos.cancels import cancels
from bench.chaos.inputs import RPCS, fill, inputs
from bench.chaos.killed import killed
from bench.chaos.listener import Heard, accuracy
from bench.chaos.neighbours import auc, neighbours
from bench.chaos.page import PLACE, markdown
from bench.chaos.rolling import rolling
from bench.chaos.silent import silent
from bench.chaos.soak import soak
from bench.marked_place import NoPlace
from bench.marked_place import fill as fill_page
from bench.serving.figures import Figure
from tests.support import ROOT

SEED = 3
# What is counted, not timed, is the same on a busy machine.
COUNTED = [
    partial(silent, 0.02),
    partial(cancels, 200, SEED),
    partial(rolling, 1),
    partial(killed, 1),
    partial(inputs, 150, SEED),
    partial(soak, 10.0, SEED),
]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("attack", COUNTED, ids=lambda attack: attack.func.__name__)
def test_nobody_else_notices_an_attack_and_nothing_of_it_stays(
    attack: Callable[[], list[Figure]],
) -> None:
    figures = attack()
    counted = [f for f in figures if f.at_most is not None and f.unit == ""]
    assert len(counted) >= 2
    missed = [f"{f.section}: {f.name}: {f.value}" for f in counted if not f.passes]
    assert not missed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("compiled_kernels")
def test_a_neighbour_sees_reused_rows_and_drafts_only_where_nothing_was_promised() -> None:
    figures = {figure.name: figure for figure in neighbours(60, SEED)}
    reused = [figure.value for name, figure in figures.items() if name.endswith("reused rows")]
    assert reused == [0.0, 0.0]
    told = [figure for name, figure in figures.items() if "nothing promised" in name]
    assert [figure.passes for figure in told] == [True]


def test_the_area_under_the_curve_is_that_of_counting_pairs() -> None:
    rng = random.Random(SEED)
    ones, others = ([float(rng.randrange(5)) for _ in range(20)] for _ in range(2))
    pairs = [(a > b) + 0.5 * (a == b) for a in ones for b in others]
    assert auc(ones, others) == pytest.approx(sum(pairs) / len(pairs))
    assert auc([1.0, 2.0], [0.0]) == 1.0
    assert auc([1.0], [1.0]) == 0.5


def test_a_listener_tells_streams_apart_whose_sizes_differ_and_guesses_among_equal_ones() -> None:
    def heard(topic: int, size: int) -> Heard:
        return Heard(topic, [size, size], [0.1, 0.1], 2, 0.2)

    assert accuracy([heard(topic, 100 * topic) for topic in range(4) for _ in range(3)]) == 1.0
    assert accuracy([heard(topic, 100) for topic in range(4) for _ in range(3)]) < 0.5


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_generated_messages_come_to_set_every_field(rpc: object) -> None:
    kind: type[Message] = rpc.request  # type: ignore[attr-defined]
    rng, seen = random.Random(SEED), set[str]()
    for _ in range(300):
        message = kind()
        fill(message, rng)
        seen |= {descriptor.name for descriptor, _ in message.ListFields()}
    assert seen == {field.name for field in kind.DESCRIPTOR.fields}


def test_the_page_has_a_place_for_the_table_and_gets_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/reliability.md").read_text())
    figures = [Figure("a", "b", 2.0, "ms", at_most=1), Figure("a", "c", 1234.0, "", at_least=1)]
    fill_page(page, PLACE, markdown({"s": figures}))
    text = page.read_text()
    assert text.count("<!-- chaos -->") == text.count("<!-- end of chaos -->") == 1
    assert "| a | b | 2 ms | **missed**: at most 1 |\n|  | c | 1,234 | at least 1 |\n" in text
    page.write_text(string.ascii_letters)
    with pytest.raises(NoPlace, match=r"page\.md"):
        fill_page(page, PLACE, markdown({}))


def test_every_section_of_the_command_has_a_short_form() -> None:
    for name, section in sections(SEED).items():
        whole, short = (getattr(section, kind) for kind in ("whole", "short"))
        assert whole != short, name
