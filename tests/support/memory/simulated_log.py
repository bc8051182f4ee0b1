"""A Log without Redis for the simulation: one seeded random number decides every fault and turn.

Calls may be lost before or after they are applied, applied later, or read late; the server may
go away, come back empty, or be replaced by a replica that misses the last writes.
"""

import copy
import random
import zlib
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from drafter.log.protocol import Lease, LogEnd, Page, Publication, WrongType
from drafter.trie.snapshot import ZERO, EntryId, load_pointer, parse_pointer

Result = TypeVar("Result")
Call = Coroutine[Any, Any, Result]
LEASE_S = 15.0


@dataclass
class Server:
    """What a Redis server holds for one space."""

    entries: list[tuple[EntryId, bytes]] = field(default_factory=list)
    last_id: EntryId = ZERO
    pointer: bytes | None = None
    parts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    lease: tuple[str, float] | None = None
    epoch: int = 0
    wanted: bool = False
    instance_id: str | None = None
    is_log_wrong: bool = False  # something else stands in its place


class Turn:
    """Awaited to give the turn back to the scheduler."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class World:
    """The clock, the network, the server and the tasks."""

    def __init__(self, rng: random.Random, *, faults: float) -> None:
        self.rng = rng
        self.faults = faults
        self.now_s = 1000.0
        self.skew_s = 0.0
        self.down = False
        self.server = Server()
        self.pointer_spoiled = False
        self._past: list[Server] = []
        self._late: list[Callable[[], object]] = []
        self._tasks: dict[str, Coroutine[Any, Any, None]] = {}
        self._paused_until: dict[str, float] = {}
        self._num_instances = 0

    # --- scheduling

    def spawn(self, name: str, task: Coroutine[Any, Any, None]) -> None:
        self.kill(name)
        self._tasks[name] = task

    def kill(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.close()

    def pause(self, name: str, seconds: float) -> None:
        self._paused_until[name] = self.now_s + seconds

    def heal(self) -> None:
        self.faults, self.down = 0.0, False
        self._paused_until.clear()
        self._late.clear()

    def close(self) -> None:
        for name in list(self._tasks):
            self.kill(name)

    def step(self) -> None:
        """Let one task that is not paused take one turn."""
        self.now_s += 0.01
        names = list(self._tasks)
        name = names[int(self.rng.random() * len(names))]
        if self._paused_until.get(name, 0.0) > self.now_s:
            return
        try:
            self._tasks[name].send(None)
        except StopIteration:
            self._tasks.pop(name, None)

    # --- the server

    def fail_over(self, lost_writes: int) -> None:
        """Replace the server by one that misses its last writes and has another clock."""
        if self._past:
            self.server = self._past[-min(lost_writes, len(self._past))]
        self._past, self._late = [], []
        self.skew_s = self.rng.choice([0.0, 0.0, -1.0, 5.0])

    def restart_empty(self) -> None:
        self.server, self._past, self._late = Server(), [], []

    def spoil_log(self) -> None:
        """Append what no writer of ours would."""
        server = self.change()
        server.last_id = (server.last_id[0] + 1, 0)
        junk = self.rng.randbytes(self.rng.choice([0, 10, 60]))
        server.entries.append((server.last_id, junk))

    def replace_log(self) -> None:
        """Put something else in the log's place, as no writer of ours would."""
        server = self.change()
        server.entries, server.is_log_wrong = [], True

    def trim(self) -> None:
        """Drop the beginning of the log, whatever its snapshots cover, as no writer of ours would.

        Where a snapshot covers nothing yet, or none is there, nobody could tell.
        """
        pointer = parse_pointer(self.server.pointer)
        if pointer is None or any(one.covered == ZERO for one in pointer.generations):
            return
        server = self.change()
        server.entries = server.entries[self.rng.randint(0, len(server.entries)) :]

    def corrupt(self) -> None:
        """Flip a bit somewhere in a snapshot, drop a part, or damage the pointer."""
        server = self.server
        if server.pointer is not None and self.rng.random() < 0.1:
            server.pointer = server.pointer[:-1] + b"?"
            self.pointer_spoiled = True
        elif server.parts:
            key = self.rng.choice(sorted(server.parts))
            data = bytearray(server.parts[key])
            if data and self.rng.random() < 0.7:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                server.parts[key] = bytes(data)
            else:
                del server.parts[key]

    def land_late(self) -> None:
        """Apply one call that its caller has long given up."""
        if self._late:
            with suppress(ConnectionError):
                self._late.pop(self.rng.randrange(len(self._late)))()

    def drop_late(self) -> None:
        self._late.clear()

    def change(self) -> Server:
        """Return the server for writing, remembering how it was."""
        before = copy.copy(self.server)
        before.entries, before.parts = list(before.entries), dict(before.parts)
        self._past = [*self._past[-8:], before]
        return self.server

    def new_instance_id(self) -> str:
        self._num_instances += 1
        return f"birth-{self._num_instances}"

    async def call(self, do: Callable[[], Result]) -> Result:
        """Carry a call to the server and its reply back, or fail on the way."""
        await Turn()
        fate = self.rng.random()
        if self.down or fate < 0.3 * self.faults:
            raise ConnectionError("lost before it was applied")
        if fate < 0.4 * self.faults:
            self._late.append(do)
            raise ConnectionError("not applied yet")
        result = do()
        if fate < 0.7 * self.faults:
            raise ConnectionError("the reply was lost")
        await Turn()
        return result


class SimulatedLog:
    """The Log interface over a world's server; one space."""

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self, space: str, cursor: EntryId) -> Call[Page]:
        def do() -> Page:
            server = self._world.server
            if server.is_log_wrong:
                raise WrongType("the log is none")
            found = [entry for entry in server.entries if entry[0] >= cursor][:8]
            return Page(found, server.pointer, server.wanted, LogEnd())

        return self._world.call(do)

    def append(self, space: str, data: bytes) -> Call[None]:
        def do() -> None:
            if self._world.server.is_log_wrong:
                raise WrongType("the log is none")
            server = self._world.change()
            # A coarse clock, so that a replica with another one gives out the same ids again.
            now_ms = 500 * int((self._world.now_s + self._world.skew_s) * 2)
            last = server.last_id
            server.last_id = (now_ms, 0) if now_ms > last[0] else (last[0], last[1] + 1)
            server.entries.append((server.last_id, data))

        return self._world.call(do)

    def instance_id(self) -> Call[str]:
        def do() -> str:
            if self._world.server.instance_id is None:
                self._world.change().instance_id = self._world.new_instance_id()
            assert self._world.server.instance_id is not None
            return self._world.server.instance_id

        return self._world.call(do)

    def acquire(self, space: str) -> Call[Lease | None]:
        def do() -> Lease | None:
            world = self._world
            if world.server.lease and world.server.lease[1] > world.now_s:
                return None
            server = world.change()
            server.epoch += 1
            token = f"token-{world.rng.random()}"
            server.lease = (token, world.now_s + LEASE_S)
            return Lease(token, server.epoch)

        return self._world.call(do)

    def _holds(self, lease: Lease) -> bool:
        held = self._world.server.lease
        return held is not None and held[0] == lease.token and held[1] > self._world.now_s

    def write_part(self, space: str, lease: Lease, part: str, data: bytes) -> Call[bool]:
        def do() -> bool:
            if not self._holds(lease):
                return False
            self._world.change().parts[(lease.key, part)] = data
            return True

        return self._world.call(do)

    def read_part(self, space: str, key: str, part: str) -> Call[bytes | None]:
        return self._world.call(lambda: self._world.server.parts.get((key, part)))

    def publish(self, space: str, lease: Lease, publication: Publication) -> Call[bool]:
        def do() -> bool:
            server, covered = self._world.server, publication.pointer.newest.covered
            there = [zlib.crc32(data) for at, data in server.entries if at == covered]
            known = covered == ZERO or there == [publication.check]
            parts = sum(key == lease.key for key, _ in server.parts) == publication.num_parts
            expected = server.pointer == publication.expected
            if not (self._holds(lease) and expected and known and parts):
                return False
            if server.pointer is not None and not self._world.pointer_spoiled:
                older = load_pointer(server.pointer).newest.epoch
                assert older < lease.epoch, f"epoch {lease.epoch} written over {older}"
            server = self._world.change()
            self._world.pointer_spoiled = False
            server.pointer = publication.pointer.dumps()
            server.wanted, server.lease = False, None
            server.entries = [e for e in server.entries if e[0] >= publication.trim_to]
            dropped = set(publication.drop)
            server.parts = {k: v for k, v in server.parts.items() if k[0] not in dropped}
            return True

        return self._world.call(do)

    def want_snapshot(self, space: str) -> Call[None]:
        def do() -> None:
            self._world.change().wanted = True

        return self._world.call(do)

    def forget(self, space: str) -> Call[None]:
        def do() -> None:
            instance_id = self._world.change().instance_id
            self._world.server = Server(instance_id=instance_id)

        return self._world.call(do)

    def wrong_keys(self, space: str) -> Call[set[str]]:
        return self._world.call(lambda: {"log"} if self._world.server.is_log_wrong else set())

    def remove(self, space: str, names: set[str]) -> Call[None]:
        def do() -> None:
            if "log" in names:
                server = self._world.change()
                server.is_log_wrong, server.entries = False, []

        return self._world.call(do)
