"""What is forgotten here stays forgotten, wherever it comes back from."""

import random

from drafter.log.protocol import Page
from drafter.memory.tombstones import Tombstones, forget_in_log, incarnation_in
from drafter.trie.snapshot import ZERO
from tests.support.memory.simulated_log import SimulatedLog, World

SPACE = "vocabulary/namespace"


def test_a_space_that_was_never_followed_here_is_known_again_once_forgotten() -> None:
    """Its incarnation is read from the log itself: no replica here has ever seen it."""
    world, pages = World(random.Random(1), faults=0.0), list[Page]()
    log, tombstones = SimulatedLog(world), Tombstones()

    async def forget() -> None:
        await log.append(SPACE, b"first entry")
        pages.append(await log.read(SPACE, ZERO))
        await forget_in_log(log, SPACE, tombstones)
        pages.append(await log.read(SPACE, ZERO))

    world.spawn("forget", forget())
    while len(pages) < 2:
        world.step()
    before, after = pages
    assert incarnation_in(before, from_start=True) in tombstones
    assert not after.entries
