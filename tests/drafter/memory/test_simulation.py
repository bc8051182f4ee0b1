"""Deterministic simulation of the shared memory: replicas agree after any mix of faults.

A failing seed is printed; run it alone with `replay(seed)`.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from drafter.memory.outbox import Outbox
from drafter.memory.replica import Replica, ReplicaLimits
from drafter.memory.tombstones import Tombstones, forget_in_log
from drafter.trie.snapshot import Arrays
from drafter.trie.store import TokenTrie
from drafter.trie.token_run import TokenRun
from tests.support.memory.simulated_log import SimulatedLog, Turn, World

pytestmark = pytest.mark.slow

NUM_SEEDS = 10_000
NUM_PARTS = 10
SPACE = "vocabulary/namespace"
LIMITS = ReplicaLimits(snapshot_tokens=12, snapshot_growth=0.1, patience_s=1.0)


class Ring:
    """The newest `capacity` tokens in order: the order of learning shows in the digest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens: list[int] = []
        self.num_bytes = 0
        self.crowded = False

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def learn(self, token_ids: TokenRun) -> None:
        self.tokens = (self.tokens + token_ids.tolist())[-self.capacity :]

    def export(self) -> Arrays:
        return {"tokens": np.array(self.tokens, np.int32)}

    def digest(self) -> str:
        return hashlib.sha256(repr(self.tokens).encode()).hexdigest()


class RingStore:
    """Remembers which ring a space drafts from."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ring = Ring(capacity)

    @property
    def max_bytes(self) -> int:
        return self.capacity

    @property
    def max_tokens(self) -> int:
        return self.capacity

    def build(self, arrays: Arrays | None) -> Ring:
        ring = Ring(self.capacity)
        if arrays is not None:
            ring.tokens = arrays["tokens"].tolist()
        return ring

    def place(self, space: str, trie: TokenTrie) -> None:
        assert isinstance(trie, Ring)
        self.ring = trie

    def forget(self, space: str) -> None:
        self.ring = Ring(self.capacity)

    def num_bytes(self, space: str) -> int:
        return 0

    def in_use(self, space: str) -> bool:
        return True

    def unload(self, space: str) -> None:
        raise AssertionError("a space in use is not unloaded")


class WorldRuntime:
    """Takes its time from the world; whatever takes long takes a turn."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.now_s

    async def offload(self, function: Callable[..., Any], *args: Any) -> Any:
        await Turn()
        return function(*args)

    async def breathe(self) -> None:
        await Turn()


@dataclass
class Peer:
    """One drafter process."""

    store: RingStore
    outbox: Outbox
    replica: Replica
    tombstones: Tombstones


@dataclass
class History:
    """What happened in a run, for the promises that depend on it."""

    acknowledged: list[int] = field(default_factory=list)
    forgotten: set[int] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)


class Simulation:
    """Some peers, one space, random faults for a while, then peace."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(self.rng, faults=self.rng.choice([0.0, 0.05, 0.2, 0.5]))
        self.log = SimulatedLog(self.world)
        self.capacity = self.rng.choice([30, 100_000])
        self.history = History()
        self.peers: dict[str, Peer] = {}
        self.num_runs = 0
        self.boots = 0
        for number in range(self.rng.choice([2, 3])):
            self.boot(f"peer-{number}")
        common: list[tuple[float, str, Callable[[], None]]] = [
            (0.30, "learn", self.learn),
            (0.03, "pause", self.pause),
            (0.04, "late", self.world.land_late),
            (0.01, "crash", self.crash),
        ]
        rare: list[tuple[float, str, Callable[[], None]]] = [
            (0.01, "flip", self.flip),
            (0.008, "fail over", lambda: self.world.fail_over(self.rng.randint(1, 6))),
            (0.005, "empty", self.world.restart_empty),
            (0.008, "forget", self.forget),
            (0.02, "corrupt", self.world.corrupt),
            (0.02, "spoil", self.world.spoil_log),
            (0.008, "replace", self.world.replace_log),
            (0.008, "trim", self.world.trim),
        ]
        self.actions = common + [action for action in rare if self.rng.random() < 0.4]

    def boot(self, name: str) -> None:
        self.boots += 1
        producer = self.boots.to_bytes(16, "big")
        outbox = Outbox(producer, 1, max_runs=1000, max_bytes=1 << 20)
        store, tombstones = RingStore(self.capacity), Tombstones()
        replica = Replica(
            SPACE,
            store,
            self.log,
            WorldRuntime(self.world),
            limits=LIMITS,
            waiting=lambda: outbox.waiting(SPACE),
            forgotten=lambda: outbox.discard(SPACE),
            tombstones=tombstones,
        )
        peer = self.peers[name] = Peer(store, outbox, replica, tombstones)
        self.world.spawn(f"{name} tail", self.tail(peer))
        self.world.spawn(f"{name} send", self.send(peer))
        self.world.spawn(f"{name} snapshot", self.snapshot(peer))

    async def patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await call()
        except ConnectionError:
            await Turn()
            return None

    async def tail(self, peer: Peer) -> None:
        while True:
            await self.patiently(peer.replica.poll)
            await Turn()

    async def send(self, peer: Peer) -> None:
        while True:
            if not peer.outbox.spaces() or not peer.replica.synced:
                await Turn()
                continue
            runs = peer.outbox.waiting(SPACE)
            try:
                await self.log.append(SPACE, peer.outbox.take(SPACE))
            except ConnectionError:
                await Turn()
                continue
            before = len(peer.outbox.waiting(SPACE))
            peer.outbox.acknowledge(SPACE)
            num_sent = before - len(peer.outbox.waiting(SPACE))
            self.history.acknowledged += [int(run[0]) for run in runs[:num_sent]]

    async def snapshot(self, peer: Peer) -> None:
        while True:
            if peer.replica.snapshot_due():
                await self.patiently(peer.replica.snapshot)
            await Turn()

    async def go_ahead(self, peer: Peer) -> None:
        await Turn()
        await peer.replica.go_ahead()

    def learn(self) -> None:
        self.num_runs += 1
        run = np.full(self.rng.randint(1, 4), self.num_runs, np.int32)
        peer = self.rng.choice(list(self.peers.values()))
        peer.outbox.add(SPACE, run)
        peer.replica.learn_ahead(run)

    def flip(self) -> None:
        """Take the server away or bring it back; peers learn ahead while it is away."""
        self.world.down = not self.world.down
        for name, peer in self.peers.items():
            if self.world.down and self.rng.random() < 0.7:
                self.world.spawn(f"{name} ahead", self.go_ahead(peer))

    def pause(self) -> None:
        task = self.rng.choice(["tail", "send", "snapshot", "snapshot"])
        name = self.rng.choice(list(self.peers))
        self.world.pause(f"{name} {task}", self.rng.choice([0.5, 3.0, 40.0]))
        self.world.now_s += self.rng.choice([0.0, 0.0, 20.0])

    def crash(self) -> None:
        self.boot(self.rng.choice(list(self.peers)))

    def forget(self) -> None:
        self.forget_at(self.rng.choice(list(self.peers)))

    def forget_at(self, name: str) -> None:
        peer = self.peers[name]

        async def do() -> None:
            known = set(self.history.acknowledged)
            peer.outbox.discard(SPACE)
            peer.replica.forget()
            while await self.patiently(lambda: self.forget_in_log(peer)) is None:
                await Turn()
            peer.replica.forget()
            # A copy of an entry that is still on its way when the space is forgotten may come back.
            self.world.drop_late()
            self.history.forgotten |= known - self.unheard_of(peer)

        self.world.spawn(f"{name} forget", do())

    def unheard_of(self, peer: Peer) -> set[int]:
        """Runs in beginnings of the space that a failover lost before this peer saw them."""
        others = [other.replica for other in self.peers.values()]
        lost = [
            r.trie
            for r in others
            if r.history.incarnation and r.history.incarnation not in peer.tombstones
        ]
        return {token for ring in lost if isinstance(ring, Ring) for token in ring.tokens}

    async def forget_in_log(self, peer: Peer) -> bool:
        await forget_in_log(self.log, SPACE, peer.tombstones)
        return True

    def run(self) -> None:
        for _ in range(self.rng.choice([20, 50, 90])):
            for chance, name, do in self.actions:
                if self.rng.random() < chance:
                    self.history.faults[name] += 1
                    do()
            for _ in range(self.rng.randint(1, 9)):
                self.world.step()
        self.recover()

    def recover(self) -> None:
        """Let there be peace until all agree."""
        self.world.heal()
        self.boot("fresh")
        for _ in range(400):
            for _ in range(10):
                self.world.step()
            self.world.now_s += 0.3
            if self.settled():
                break
        self.world.close()

    def settled(self) -> bool:
        ends = {
            (peer.replica.history.base, peer.replica.history.cursor, peer.replica.synced)
            for peer in self.peers.values()
        }
        last = self.world.server.entries[-1][0] if self.world.server.entries else None
        pending = any(peer.outbox.spaces() or peer.replica.ahead for peer in self.peers.values())
        ((_, cursor, synced),) = ends if len(ends) == 1 else (("", None, False),)
        return synced and not pending and last in (cursor, None)

    def verdict(self) -> str | None:
        """Return which promise broke, or None."""
        if not self.settled():
            return "the peers did not settle"
        if len({peer.store.ring.digest() for peer in self.peers.values()}) != 1:
            return "the digests differ"
        tokens = next(iter(self.peers.values())).store.ring.tokens
        starts = [t for i, t in enumerate(tokens) if i == 0 or tokens[i - 1] != t]
        if len(starts) != len(set(starts)):
            return "a run was counted twice"
        harmful = {"fail over", "empty", "corrupt", "replace", "trim"} & self.history.faults.keys()
        if self.capacity > 1000 and not harmful:
            missing = set(self.history.acknowledged) - set(tokens) - self.history.forgotten
            if missing and not self.history.faults["forget"]:
                return f"acknowledged runs {missing} were lost"
        # Who forgot must live on where Redis may forget that too.
        harmful -= set() if self.history.faults["crash"] else {"fail over", "empty"}
        if not harmful and self.history.forgotten & set(tokens):
            return "forgotten runs came back"
        return None


def replay(seed: int) -> str | None:
    """Run one seed; return which promise broke, or None."""
    simulation = Simulation(seed)
    simulation.run()
    return simulation.verdict()


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_replicas_converge_in_every_simulated_history(part: int) -> None:
    for seed in range(part, NUM_SEEDS, NUM_PARTS):
        broken = replay(seed)
        assert broken is None, f"seed {seed}: {broken}"


def lose_after_forgetting(seed: int, lose: Callable[[Simulation], None]) -> Simulation:
    """All know some runs; one misses that they are forgotten; then Redis loses that, too."""
    simulation = Simulation(seed)
    world = simulation.world
    world.faults = 0.0
    while len(simulation.history.acknowledged) < 20:
        if simulation.rng.random() < 0.1:
            simulation.learn()
        world.step()
    while not simulation.settled():
        world.step()
    world.pause("peer-0 tail", 1e9)
    world.pause("peer-0 snapshot", 1e9)
    simulation.forget_at("peer-1")
    while not simulation.history.forgotten:
        world.step()
    lose(simulation)
    simulation.recover()
    return simulation


@pytest.mark.parametrize("lost", ["everything", "the last writes"])
def test_what_was_forgotten_stays_so_when_redis_loses_that_it_was(lost: str) -> None:
    def lose(simulation: Simulation) -> None:
        if lost == "everything":
            simulation.world.restart_empty()
        else:
            simulation.world.fail_over(simulation.rng.randint(1, 6))

    for seed in range(150):
        simulation = lose_after_forgetting(seed, lose)
        assert simulation.verdict() is None, f"seed {seed}: {simulation.verdict()}"
        tokens = simulation.peers["peer-0"].store.ring.tokens
        assert not simulation.history.forgotten & set(tokens), f"seed {seed}"


def test_same_seed_gives_the_same_history() -> None:
    first, second = Simulation(7), Simulation(7)
    first.run()
    second.run()
    assert first.world.now_s == second.world.now_s
    assert [p.store.ring.tokens for p in first.peers.values()] == [
        p.store.ring.tokens for p in second.peers.values()
    ]
