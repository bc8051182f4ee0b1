"""What anybody with write access to Redis may put there: a space says so, and goes on again."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.topologies.server import Server, running
from drafter.log.inspect import read_troubles
from drafter.trie.snapshot import (
    ZERO,
    Generation,
    Pointer,
    Position,
    chunks,
    dump_header,
    load_pointer,
    make_header,
)
from tests.support.memory.memory_peers import FAST, SPACE, Peer, peers, some_run
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

LAST = (1 << 64) - 1
KEY = f"lookahead:{{{SPACE}}}:"
NO_SNAPSHOTS = replace(FAST, replica=replace(FAST.replica, snapshot_tokens=10**9))
Spoil = Callable[[Any], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "redis", "--appendonly", "no")
    with running(found):
        yield found


def wrong_type(name: str) -> Spoil:
    """Put a list where something else should be."""

    def spoil(client: Any) -> None:
        client.delete(KEY + name)
        client.rpush(KEY + name, b"mine")

    return spoil


def text(name: str, value: bytes) -> Spoil:
    def spoil(client: Any) -> None:
        client.set(KEY + name, value)

    return spoil


def pointer(**changes: Any) -> Spoil:
    """Change the newest generation that the pointer names; its checksum is right."""

    def spoil(client: Any) -> None:
        old = load_pointer(client.get(KEY + "pointer"))
        newest = replace(old.newest, **changes)
        client.set(KEY + "pointer", replace(old, generations=(newest,)).dumps())

    return spoil


def snapshot(cursor: tuple[int, int], *, base: str = "mine", num_tokens: int = 50) -> Spoil:
    """Put a snapshot there that is whole, but not of this log."""

    def spoil(client: Any) -> None:
        arrays = {"tokens": np.full(40, 7, np.int32), "num_learned": np.array([40])}
        position = Position(base, cursor, 5, (), num_tokens, "ab")
        head = dump_header(make_header(SPACE, position, 1, arrays))
        for part, data in enumerate(chunks(arrays)):
            client.hset(KEY + "snapshot-mine", str(part), data)
        client.hset(KEY + "snapshot-mine", "header", head)
        generation = Generation("snapshot-mine", 1, cursor, num_tokens)
        client.set(KEY + "pointer", Pointer("mine", (generation,), "ab").dumps())

    return spoil


def last_id(client: Any) -> None:
    """Leave no room for any entry behind."""
    client.xadd(KEY + "log", {"e": b"mine"}, id=f"{LAST}-{LAST}")


def deep_json(client: Any) -> None:
    head = b"[" * 60_000
    client.set(KEY + "pointer", head)


SPOILS: dict[str, Spoil] = {
    "log of a wrong type": wrong_type("log"),
    "pointer of a wrong type": wrong_type("pointer"),
    "list of snapshots of a wrong type": wrong_type("snapshots"),
    "epoch of a wrong type": wrong_type("epoch"),
    "epoch that is no number": text("epoch", b"many"),
    "epoch without a next one": text("epoch", str((1 << 63) - 1).encode()),
    "pointer that is no pointer": text("pointer", b"\xff" * 100),
    "pointer that is empty": text("pointer", b""),
    "pointer of many bytes": text("pointer", bytes(1 << 20)),
    "pointer to the log as a snapshot": pointer(key="log"),
    "pointer to nothing": pointer(key="snapshot-none"),
    "pointer to an entry to come": pointer(covered=(LAST, LAST)),
    "pointer to an impossible entry": pointer(covered=(LAST + 1, -1)),
    "pointer that covers very much": pointer(num_tokens=1 << 61),
    "pointer to many tokens, as text": pointer(num_tokens="1e400"),
    "snapshot of an entry to come": snapshot((LAST, 0)),
    "snapshot of an entry that never was": snapshot((1, 1)),
    "snapshot on another base than its pointer's": snapshot((1, 1), base="yours"),
    "snapshot of the beginning": snapshot(ZERO),
    "pointer nested deeply": deep_json,
    "last entry of all": last_id,
}


# A drafter may have found them like this; the memory begins anew from them.
LIKE_OURS = ("snapshot of the beginning", "pointer that is empty")


@pytest.mark.parametrize("name", SPOILS)
async def test_a_spoiled_space_is_said_and_learns_again(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One drafter runs on, another starts afterwards; what was learned before is not lost."""
    async with peers(server.url, 1) as (one,):
        learn(one, 100)
        await eventually(lambda: one.memory.status().snapshots >= 1)
        await eventually(lambda: one.memory.status().outbox_runs == 0)
        SPOILS[name](server.client())
        learn(one, 50, first=200)
        async with peers(server.url, 1) as (two,):
            await eventually(lambda: two.knows(some_run(249)), 20)
            learn(two, 1, first=300)
            await eventually(lambda: one.knows(some_run(300)), 20)
            await eventually(lambda: one.digest() == two.digest() and one.position() != "", 20)
            assert one.knows(some_run(249))
            status = one.memory.status()
            assert (status.num_in_trouble, status.outbox_runs) == (0, 0)
            # Lines are few, however often a spoiled space was read.
            assert len([r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]) < 12


@pytest.mark.parametrize("name", SPOILS)
async def test_a_fresh_drafter_starts_on_what_is_left(server: Server, name: str) -> None:
    """Nobody holds the space in memory any more."""
    async with peers(server.url, 1) as (one,):
        learn(one, 100)
        await eventually(lambda: one.memory.status().snapshots >= 1)
        await eventually(lambda: one.memory.status().outbox_runs == 0)
    SPOILS[name](server.client())
    async with peers(server.url, 2, limits=NO_SNAPSHOTS) as (two, three):
        await asyncio.gather(two.synced(timeout_s=20), three.synced(timeout_s=20))
        learn(two, 1, first=300)
        await eventually(lambda: three.knows(some_run(300)), 20)
        await eventually(lambda: two.digest() == three.digest(), 20)
        assert two.memory.status().num_in_trouble == 0


@pytest.mark.parametrize("key", ["lookahead:birth", "lookahead:news"])
async def test_a_spoiled_common_key_is_replaced(server: Server, key: str) -> None:
    server.client().rpush(key, b"mine")
    async with peers(server.url, 2) as (one, two):
        learn(one, 3)
        await eventually(lambda: two.knows(some_run(2)), 20)
        assert one.memory.status().connected


async def test_a_lease_that_would_never_end_ends(server: Server) -> None:
    server.client().set(KEY + "lease", b"mine")
    async with peers(server.url, 1) as (one,):
        learn(one, 100)
        await eventually(lambda: 0 < server.client().pttl(KEY + "lease") <= 30_000)


async def test_spoiled_spaces_are_listed_for_the_operator(server: Server) -> None:
    async with peers(server.url, 1, spaces=(SPACE, "vocabulary/good")) as (one,):
        learn(one, 100)
        for seed in range(100):
            one.memory.append("vocabulary/good", some_run(seed))
        await eventually(lambda: one.memory.status().snapshots == 2)
    assert await read_troubles(server.url) == {}
    for name, spoil in SPOILS.items():
        client = server.client()
        kept = {key: client.dump(key) for key in client.keys("*")}
        spoil(client)
        troubles = await read_troubles(server.url)
        assert list(troubles) == ([] if name in LIKE_OURS else [SPACE]), name
        client.flushall()
        for key, dumped in kept.items():
            client.restore(key, 0, dumped)


def learn(peer: Peer, number: int, first: int = 0) -> None:
    for seed in range(first, first + number):
        peer.memory.append(SPACE, some_run(seed))
