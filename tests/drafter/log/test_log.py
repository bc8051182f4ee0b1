"""The shared memory over a real server: learning together, restarts, forgetting, faults."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.topologies.proxy import Proxy
from bench.topologies.server import Server, running
from drafter.drafting.sessions import DraftSessions
from drafter.log.entry import Entry, decode
from drafter.log.redis_log import RedisLog
from drafter.memory.room import RoomLimits
from drafter.trie.snapshot import ZERO, load_pointer
from lookahead.stack.private_redis import LocalRedis
from tests.support.memory.memory_peers import FAST, SPACE, Peer, agree, peers, some_run
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

OTHER = "vocabulary/other"
NO_SNAPSHOTS = replace(FAST, replica=replace(FAST.replica, snapshot_tokens=10**9))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "redis", "--appendonly", "yes")
    with running(found):
        yield found


def learn(peer: Peer, first: int, number: int, space: str = SPACE) -> None:
    for seed in range(first, first + number):
        peer.memory.append(space, some_run(seed))


async def test_what_one_learns_the_other_drafts(server: Server) -> None:
    async with peers(server.url) as (one, two):
        one.memory.append(SPACE, some_run(1))
        await eventually(lambda: two.knows(some_run(1)))
        two.sessions.open(1, space=SPACE, token_ids=some_run(1)[:20])
        assert two.sessions.propose(1, 4).token_ids[0] == some_run(1)[20]
        await eventually(lambda: agree([one, two], 1))


async def test_many_producers_end_with_one_digest(server: Server) -> None:
    async with peers(server.url, 4) as group:
        for turn in range(20):
            for number, peer in enumerate(group):
                learn(peer, 1000 * number + 10 * turn, 10)
            await asyncio.sleep(0)
        await eventually(lambda: agree(group, 4 * 200))
        assert group[0].memory.status().duplicates == 0


async def test_new_replica_starts_from_snapshot_and_tail(server: Server) -> None:
    async with peers(server.url, 1) as (one,):
        learn(one, 0, 100)
        await eventually(lambda: one.memory.status().snapshots == 1)
        learn(one, 100, 5)
        await eventually(lambda: one.memory.status().applied_tokens == 105 * 50)
        async with peers(server.url, 1) as (two,):
            await two.synced()
            await eventually(lambda: agree([one, two], 105))
            assert two.memory.status().applied_tokens < 105 * 50
            assert two.knows(some_run(0))


async def test_restarted_drafter_gets_back_what_was_acknowledged(server: Server) -> None:
    async with peers(server.url, 1) as (one,):
        learn(one, 0, 30)
        await eventually(lambda: one.memory.status().applied_tokens == 30 * 50)
        digest = one.digest()
    async with peers(server.url, 1) as (two,):
        await eventually(lambda: two.digest() == digest)


async def test_log_is_trimmed_only_behind_the_older_of_two_snapshots(server: Server) -> None:
    async with peers(server.url, 2) as (one, two):
        for turn in range(4):
            learn(one, 100 * turn, 100)
            await eventually(lambda turn=turn: agree([one, two], 100 * turn + 100))  # type: ignore[misc]
            await eventually(
                lambda turn=turn: (  # type: ignore[misc]
                    one.memory.status().snapshots + two.memory.status().snapshots > turn
                )
            )
        client = server.client()
        keys = client.keys("*}:snapshot-*")
        pointer = load_pointer(client.get(f"lookahead:{{{SPACE}}}:pointer"))
        assert len(pointer.generations) == len(keys) == 2
        first = client.xrange(f"lookahead:{{{SPACE}}}:log", count=1)[0][0].decode()
        assert first == "{}-{}".format(*pointer.generations[1].covered)


@pytest.mark.parametrize("part", [b"header", b"0"])
@pytest.mark.parametrize("damage", ["flip", "drop"])
async def test_damaged_snapshot_falls_back_to_the_older_one(
    server: Server, part: bytes, damage: str
) -> None:
    async with peers(server.url, 1) as (one,):
        for turn in range(2):
            learn(one, 100 * turn, 100)
            await eventually(lambda turn=turn: one.memory.status().snapshots > turn)  # type: ignore[misc]
        await eventually(lambda: one.memory.status().applied_tokens == 200 * 50)
        digest = one.digest()
    spoil(server, 0, part, damage)
    async with peers(server.url, 1) as (two,):
        await eventually(lambda: two.digest() == digest)


async def test_two_damaged_snapshots_give_an_empty_start_that_all_agree_on(server: Server) -> None:
    async with peers(server.url, 1) as (one,):
        for turn in range(2):
            learn(one, 100 * turn, 100)
            await eventually(lambda turn=turn: one.memory.status().snapshots > turn)  # type: ignore[misc]
    spoil(server, 0, b"0", "flip")
    spoil(server, 1, b"header", "drop")
    async with peers(server.url, 2, limits=NO_SNAPSHOTS) as (two, three):
        await asyncio.gather(two.synced(), three.synced())
        num_left = sum(len(entry.runs) for entry in entries(server))
        learn(two, 500, 1)
        await eventually(lambda: agree([two, three], num_left + 1))


async def test_healthy_replica_writes_a_new_snapshot_for_one_that_has_none(server: Server) -> None:
    async with peers(server.url, 1) as (one,):
        learn(one, 0, 100)
        await eventually(lambda: one.memory.status().snapshots == 1)
        spoil(server, 0, b"0", "flip")
        async with peers(server.url, 1) as (two,):
            await two.synced()
            await eventually(lambda: agree([one, two], 100))


def entries(server: Server) -> list[Entry]:
    found = server.client().xrange(f"lookahead:{{{SPACE}}}:log")
    return [decode(fields[b"e"]) for _, fields in found]


def spoil(server: Server, generation: int, part: bytes, damage: str) -> None:
    client = server.client()
    pointer = load_pointer(client.get(f"lookahead:{{{SPACE}}}:pointer"))
    key = f"lookahead:{{{SPACE}}}:{pointer.generations[generation].key}"
    data = bytearray(client.hget(key, part) or b"")
    data[len(data) // 2] ^= 4
    if damage == "flip":
        client.hset(key, part, bytes(data))
    else:
        client.hdel(key, part)


async def test_forget_leaves_nothing_behind(server: Server) -> None:
    async with peers(server.url, 2, spaces=(SPACE, OTHER)) as (one, two):
        learn(one, 0, 100)
        learn(one, 0, 3, OTHER)
        await eventually(lambda: agree([one, two], 100) and agree([one, two], 3, OTHER))
        await eventually(lambda: one.memory.status().snapshots + two.memory.status().snapshots == 1)
        assert await two.memory.forget(SPACE) == 100 * 51
        assert not [key for key in server.client().keys("*") if SPACE.encode() in key]
        await eventually(lambda: not one.knows(some_run(0)), 3.0)
        assert one.knows(some_run(0), OTHER)
        learn(one, 500, 1)
        await eventually(lambda: two.knows(some_run(500)) and agree([one, two], 1))


async def test_replica_that_missed_a_forget_does_not_bring_it_back_into_an_empty_redis(
    server: Server,
) -> None:
    async with peers(server.url, 2) as (one, two):
        learn(one, 0, 20)
        await eventually(lambda: agree([one, two], 20))
        assert one.memory._following is not None
        await one.memory._following.stop()
        await two.memory.forget(SPACE)
        server.client().flushall()
        assert one.knows(some_run(0))
        one.memory._following.start()
        await eventually(lambda: not one.knows(some_run(0)))
        learn(two, 500, 1)
        await eventually(lambda: one.knows(some_run(500)) and agree([one, two], 1))


async def test_forget_that_redis_did_not_hear_is_made_up_for(tmp_path: Path) -> None:
    server = Server(tmp_path / "redis", "--appendonly", "yes")
    with running(server):
        async with peers(server.url, 2) as (one, two):
            learn(one, 0, 20)
            await eventually(lambda: agree([one, two], 20))
            server.kill()
            with pytest.raises(ConnectionError):
                await one.memory.forget(SPACE)
            server.start()
            await eventually(lambda: not two.knows(some_run(0)))
            assert not [key for key in server.client().keys("*") if SPACE.encode() in key]


async def test_forget_without_redis_is_reported_and_holds_here(tmp_path: Path) -> None:
    gone = Server(tmp_path / "gone")
    async with peers(gone.url, 1) as (one,):
        learn(one, 0, 1)
        with pytest.raises(ConnectionError):
            await one.memory.forget(SPACE)
        assert one.memory.status().outbox_runs == 0


async def test_namespaces_never_see_each_other(server: Server) -> None:
    async with peers(server.url, 2, spaces=(SPACE, OTHER)) as (one, two):
        learn(one, 0, 20, OTHER)
        await eventually(lambda: agree([one, two], 20, OTHER))
        assert two.knows(some_run(0), OTHER)
        two.sessions.open(1, space=SPACE, token_ids=some_run(0)[:20])
        alone = DraftSessions()
        alone.open(1, space=SPACE, token_ids=some_run(0)[:20])
        ours, theirs = two.sessions.propose(1, 8), alone.propose(1, 8)
        assert ours.token_ids.tolist() == theirs.token_ids.tolist()
        assert ours.probabilities.tolist() == theirs.probabilities.tolist()
        assert two.replica().trie.num_tokens == 0


@pytest.mark.parametrize("space", ["", "n", "v/n/m", "v/{n}", "v/n\n", "v/" + "n" * 129])
async def test_bad_space_is_refused_and_changes_nothing(space: str) -> None:
    async with peers(None, 1) as (one,):
        with pytest.raises(ValueError, match="space"):
            one.memory.append(space, [1])
        with pytest.raises(ValueError, match="space"):
            one.memory.load(space)
        with pytest.raises(ValueError, match="token_ids"):
            one.memory.append(SPACE, [-1])
        assert one.memory.spaces() == [SPACE]


async def test_without_redis_a_drafter_learns_alone_and_says_so() -> None:
    async with peers(None, 1) as (one,):
        learn(one, 0, 3)
        assert one.knows(some_run(2))
        status = one.memory.status()
        assert (status.shared, status.connected, status.num_spaces) == (False, False, 1)
        assert await one.memory.forget(SPACE) == 3 * 51
        assert not one.knows(some_run(2))


async def test_least_recently_used_space_makes_room_and_comes_back(server: Server) -> None:
    limits = replace(NO_SNAPSHOTS, room=RoomLimits(max_bytes=1_000_000))
    async with peers(server.url, 1, limits=limits) as (one,):
        for number in range(3):
            space = f"vocabulary/space-{number}"
            learn(one, 1000 * number, 200, space)
            await eventually(lambda: one.memory.status().outbox_runs == 0)
        await eventually(lambda: one.memory.status().num_bytes <= 1_000_000)
        assert one.memory.status().unloaded > 0
        assert "vocabulary/space-0" not in one.memory.spaces()
        one.memory.load("vocabulary/space-0")
        await eventually(lambda: one.knows(some_run(0), "vocabulary/space-0"))


async def test_idle_space_ends_with_its_time_to_live(server: Server) -> None:
    limits = replace(FAST, ttl_s=1)
    async with peers(server.url, 1, limits=limits) as (one,):
        learn(one, 0, 100)
        await eventually(lambda: one.memory.status().snapshots == 1)
        learn(one, 100, 1)
        client = server.client()
        await eventually(
            lambda: not [key for key in client.keys("*") if SPACE.encode() in key], 5.0
        )
        await eventually(lambda: not one.knows(some_run(0)), 5.0)


# --- faults


async def test_redis_down_at_start_then_up(tmp_path: Path) -> None:
    late = Server(tmp_path / "late")
    async with peers(late.url, 2) as (one, two):
        learn(one, 0, 10)
        await eventually(lambda: one.knows(some_run(9)), 3.0)
        assert not one.memory.status().connected
        with running(late):
            learned = await eventually(lambda: two.knows(some_run(9)))
            assert learned < 2.0
            await eventually(lambda: agree([one, two], 10))


async def test_redis_killed_in_traffic_and_restarted(server: Server) -> None:
    async with peers(server.url, 2) as (one, two):
        learn(one, 0, 20)
        await eventually(lambda: agree([one, two], 20))
        server.kill()
        learn(one, 20, 20)
        learn(two, 40, 20)
        await eventually(lambda: one.knows(some_run(39)) and two.knows(some_run(59)), 3.0)
        await asyncio.to_thread(server.start)
        assert await eventually(lambda: agree([one, two], 60)) < 2.0
        assert one.knows(some_run(59))
        assert two.knows(some_run(39))


async def test_redis_restarted_empty_gets_everything_back_from_memory(tmp_path: Path) -> None:
    volatile = Server(tmp_path / "volatile", "--appendonly", "no")
    with running(volatile):
        async with peers(volatile.url, 2) as (one, two):
            learn(one, 0, 60)
            await eventually(lambda: agree([one, two], 60))
            volatile.kill()
            learn(two, 60, 5)
            await asyncio.to_thread(volatile.start)
            assert await eventually(lambda: agree([one, two], 65)) < 3.0
            assert one.knows(some_run(0))
            assert one.knows(some_run(64))
            async with peers(volatile.url, 1) as (three,):
                await eventually(lambda: agree([one, three], 65))


async def test_full_redis_queues_within_bounds_and_catches_up(server: Server) -> None:
    limits = replace(NO_SNAPSHOTS, max_outbox_runs=50)
    async with peers(server.url, 2, limits=limits) as (one, two):
        learn(one, 0, 10)
        await eventually(lambda: agree([one, two], 10))
        client = server.client()
        client.config_set("maxmemory", 1)
        learn(one, 100, 200)
        await eventually(lambda: one.knows(some_run(299)), 3.0)
        assert one.memory.status().outbox_runs <= 50
        assert one.memory.status().outbox_dropped == 150
        client.config_set("maxmemory", 0)
        assert await eventually(lambda: agree([one, two], 60)) < 2.0
        assert two.knows(some_run(299))


async def test_read_only_replica_is_followed_and_learning_waits(
    server: Server, tmp_path: Path
) -> None:
    follower = Server(tmp_path / "follower", "--replicaof", "127.0.0.1", str(server.port))
    with running(follower):
        async with peers(server.url, 1) as (one,), peers(follower.url, 1) as (two,):
            learn(one, 0, 10)
            await eventually(lambda: two.replica().trie.num_tokens == 10 * 51)
            learn(two, 100, 5)
            await eventually(lambda: two.knows(some_run(104)), 3.0)
            follower.client().replicaof("NO", "ONE")
            await eventually(lambda: two.memory.status().outbox_runs == 0)


async def test_frozen_redis_delays_learning_and_nothing_else(server: Server) -> None:
    async with peers(server.url, 2) as (one, two):
        learn(one, 0, 10)
        await eventually(lambda: agree([one, two], 10))
        server.freeze()
        longest = 0.0
        loop = asyncio.get_running_loop()
        for turn in range(250):
            start = loop.time()
            learn(one, 100 + turn, 1)
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - start)
        server.resume()
        assert await eventually(lambda: agree([one, two], 260)) < 3.0
        assert longest < 0.5


async def test_lost_replies_are_counted_once(server: Server) -> None:
    proxy = Proxy(server.port)
    proxy.only_after = b"XADD"
    await proxy.start()
    try:
        # No snapshots: whoever publishes one tells the others with an XADD, too.
        async with (
            peers(proxy.url, 1, limits=NO_SNAPSHOTS) as (one,),
            peers(server.url, 1) as (two,),
        ):
            await asyncio.gather(one.synced(), two.synced())
            for turn in range(10):
                proxy.lose_replies = 1
                learn(one, 10 * turn, 10)
                await eventually(lambda: one.memory.status().outbox_runs == 0)
            await eventually(lambda: agree([one, two], 100))
            assert proxy.lost == 10
            await eventually(lambda: two.memory.status().duplicates >= 10)
            await eventually(lambda: agree([one, two], 100))
    finally:
        await proxy.stop()


async def test_reader_whose_place_was_trimmed_away_starts_over(server: Server) -> None:
    proxy = Proxy(server.port)
    await proxy.start()
    async with peers(server.url, 1) as (one,), peers(proxy.url, 1) as (two,):
        learn(one, 0, 10)
        await eventually(lambda: agree([one, two], 10))
        await proxy.stop()
        for turn in range(3):
            learn(one, 100 * (turn + 1), 100)
            await eventually(lambda turn=turn: one.memory.status().snapshots > turn)  # type: ignore[misc]
        await proxy.start()
        await eventually(lambda: agree([one, two], 310))
        assert two.memory.status().resyncs["moved"] == 1
    await proxy.stop()


async def test_hostile_entries_are_skipped(server: Server) -> None:
    client = server.client()
    key = f"lookahead:{{{SPACE}}}:log"
    for fields in ({"e": b""}, {"x": b"1"}, {"e": b"\x00" * 1_000_000}, {"e": b"LE\x02\x00junk"}):
        client.xadd(key, fields)
    async with peers(server.url, 2) as (one, two):
        learn(one, 0, 1)
        await eventually(lambda: agree([one, two], 1))
        assert two.memory.status().skipped == 4


async def test_wrong_type_at_the_log_stops_learning_and_nothing_else(server: Server) -> None:
    server.client().set(f"lookahead:{{{SPACE}}}:log", b"not a stream")
    async with peers(server.url, 1) as (one,):
        learn(one, 0, 3)
        await eventually(lambda: one.knows(some_run(2)), 3.0)
        server.client().delete(f"lookahead:{{{SPACE}}}:log")
        await eventually(lambda: one.memory.status().outbox_runs == 0)


async def test_only_the_holder_of_the_lease_publishes(server: Server) -> None:
    log = RedisLog(server.url)
    try:
        lease = await log.acquire(SPACE)
        assert lease is not None
        assert await log.acquire(SPACE) is None
        server.client().delete(f"lookahead:{{{SPACE}}}:lease")
        newer = await log.acquire(SPACE)
        assert newer is not None
        assert newer.epoch > lease.epoch
        assert not await log.write_part(SPACE, lease, "0", b"late")
        assert await log.write_part(SPACE, newer, "0", b"good")
        assert await log.read_part(SPACE, lease.key, "0") is None
        assert (await log.read(SPACE, ZERO)).pointer is None
    finally:
        await log.close()


async def test_oversized_snapshot_part_is_not_fetched(server: Server) -> None:
    server.client().hset(f"lookahead:{{{SPACE}}}:snapshot-1", "0", bytes(6 << 20))
    log = RedisLog(server.url)
    try:
        assert await log.read_part(SPACE, "snapshot-1", "0") is None
    finally:
        await log.close()


async def test_local_server_keeps_its_data_and_is_shared(tmp_path: Path) -> None:
    first = LocalRedis(tmp_path / "data")
    await asyncio.to_thread(first.start)
    try:
        async with peers(first.url, 1) as (one,):
            second = LocalRedis(tmp_path / "data")
            await asyncio.to_thread(second.start)
            second.stop()
            learn(one, 0, 10)
            await eventually(lambda: one.memory.status().applied_tokens == 500)
            digest = one.digest()
    finally:
        first.stop()
    await asyncio.to_thread(first.start)
    try:
        async with peers(first.url, 1) as (two,):
            await eventually(lambda: two.digest() == digest)
    finally:
        first.stop()


async def test_drafters_with_different_limits_say_so_and_go_on(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = Peer(server.url), Peer(server.url, NO_SNAPSHOTS, max_bytes=1 << 20)
    try:
        for peer in (large, small):
            await peer.memory.start()
            peer.memory.load(SPACE)
        learn(large, 0, 600)
        await eventually(lambda: small.memory.status().num_other_limits == 1)
        await eventually(lambda: small.knows(some_run(599)) and large.knows(some_run(0)))
        # The same place in the log, but only one trie still has the oldest runs.
        await eventually(lambda: large.position() == small.position())
        assert large.digest() != small.digest()
        assert not small.knows(some_run(0))
        assert large.memory.status().num_other_limits == 0
        await eventually(lambda: caplog.text.count("max_namespace_bytes differs") == 1)
        small.memory.append(SPACE, some_run(700))
        await eventually(lambda: large.knows(some_run(700)))
    finally:
        for peer in (large, small):
            await peer.memory.stop()
