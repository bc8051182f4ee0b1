"""Very many namespaces over a real server: a handful of connections, and none is forgotten."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.topologies.server import Server, running
from drafter.memory.memory import MemoryLimits
from drafter.memory.room import RoomLimits
from tests.support.memory.memory_peers import FAST, RUN_LEN, Peer, peers, some_run
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

NUMBER, MOST = 300, 40
LIMITS = replace(FAST, room=RoomLimits(max_spaces=MOST))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "redis", "--appendonly", "no")
    with running(found):
        yield found


def space_of(number: int) -> str:
    return f"v/tenant.{number}"


async def learn_everywhere(peer: Peer) -> None:
    for number in range(NUMBER):
        peer.memory.append(space_of(number), some_run(number))
        if number % MOST == 0:
            await eventually(lambda: peer.memory.status().outbox_runs == 0)
    await eventually(lambda: peer.memory.status().outbox_runs == 0)


async def test_idle_spaces_are_put_away_and_come_back(server: Server) -> None:
    async with peers(server.url, 1, limits=LIMITS) as (one,):
        await learn_everywhere(one)
        await eventually(lambda: len(one.memory.spaces()) <= MOST)
        assert one.memory.status().outbox_dropped == 0
        assert one.memory.status().unloaded >= NUMBER - MOST
        assert len(server.client().client_list()) - 1 <= 8
        for number in range(0, NUMBER, 10):
            one.memory.load(space_of(number))
            await eventually(lambda n=number: one.knows(some_run(n), space_of(n)))  # type: ignore[misc]


async def test_a_space_that_came_back_learns_on_and_counts_each_run_once(server: Server) -> None:
    async with peers(server.url, 1, limits=LIMITS) as (one,):
        for turn in range(3):
            await learn_everywhere(one)
            await eventually(lambda: len(one.memory.spaces()) <= MOST)
            one.memory.load(space_of(0))
            await eventually(
                lambda turn=turn: (  # type: ignore[misc]
                    one.replica(space_of(0)).trie.num_tokens == (turn + 1) * (RUN_LEN + 1)
                )
            )
        assert one.memory.status().duplicates == 0


async def test_news_of_one_space_reach_the_other_drafter_while_many_are_idle(
    server: Server,
) -> None:
    async with peers(server.url, 2, limits=FAST) as (one, two):
        for number in range(NUMBER):
            two.memory.load(space_of(number))
        await eventually(lambda: all(two.replica(space_of(n)).synced for n in range(NUMBER)))
        one.memory.append(space_of(7), some_run(7))
        assert await eventually(lambda: two.knows(some_run(7), space_of(7))) < 5.0


async def test_what_no_news_told_of_is_found_all_the_same(server: Server) -> None:
    async with peers(server.url, 2, limits=FAST, spaces=(space_of(0),)) as (one, two):
        await two.synced(space_of(0))
        # As a drafter of an earlier version would: it writes to the log alone.
        one.memory.append(space_of(0), some_run(1))
        await eventually(lambda: two.knows(some_run(1), space_of(0)))
        client = server.client()
        ((_, fields),) = client.xrange(f"lookahead:{{{space_of(0)}}}:log")
        holes = two.memory.status().duplicates
        client.xadd(f"lookahead:{{{space_of(0)}}}:log", fields)
        await eventually(lambda: two.memory.status().duplicates == holes + 1)


async def test_spaces_that_cannot_be_sent_are_bounded_while_redis_is_away(tmp_path: Path) -> None:
    gone = Server(tmp_path / "gone")
    async with peers(gone.url, 1, limits=LIMITS) as (one,):
        for number in range(4 * MOST):
            one.memory.append(space_of(number), some_run(number))
        await eventually(lambda: len(one.memory.spaces()) <= 2 * MOST)
        status = one.memory.status()
        assert status.outbox_runs + status.outbox_dropped == 4 * MOST
        assert one.memory.spaces().count(space_of(4 * MOST - 1)) == 1


async def test_a_tenant_that_learned_too_much_is_refused_and_others_are_not() -> None:
    limits = MemoryLimits(tenant_learn_tokens=3 * RUN_LEN)
    async with peers(None, 1, limits=limits) as (one,):
        taken = [one.memory.append(f"v/flood.{number}", some_run(number)) for number in range(5)]
        assert taken == [True, True, True, False, False]
        assert one.memory.append("v/polite", some_run(9))
        assert one.memory.status().refused_tokens == 2 * RUN_LEN
        assert not one.knows(some_run(4), "v/flood.4")
