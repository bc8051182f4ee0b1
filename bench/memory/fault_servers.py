"""Servers that come to harm, and what is done to them: one, a Sentinel group, a Cluster."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.memory.fault_traffic import DrafterEndpoints
from bench.topologies.groups import Cluster, Sentinels, ask
from bench.topologies.proxy import ProxyProcess
from bench.topologies.server import Server, running, wait_until

# Replication is held up for so long before the master ends: what it acknowledged meanwhile is lost.
_LOST_WRITES_S = 0.3
_SLOT_MOVES, _MOVE_EVERY_S = 3, 0.5
_GROUP_TIMEOUT_S = 40.0


def _nothing() -> None:
    """For what needs no preparation or no cure."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What begins it and what ends it, after so many seconds."""

    hurt: Callable[[], object]
    heal: Callable[[], object] = _nothing
    seconds: float = 2.5
    prepare: Callable[[], object] | None = None  # before it is measured


@dataclass(frozen=True, slots=True)
class Redis:
    """Where drafters find it, and what may happen to it."""

    url: str
    faults: Callable[[DrafterEndpoints], dict[str, Fault]]


@contextmanager
def single(folder: Path) -> Iterator[Redis]:
    """One server behind a proxy."""
    server = Server(folder / "redis", "--appendonly", "yes")
    proxy = ProxyProcess(server.port, only_after=b"XADD")

    def restart_drafters_without_redis(drafters: DrafterEndpoints) -> None:
        drafters.stop()
        server.kill()
        drafters.start()

    def faults(drafters: DrafterEndpoints) -> dict[str, Fault]:
        return {
            "killed": Fault(server.kill, server.start),
            "frozen": Fault(server.freeze, server.resume, seconds=5.0),
            "full": Fault(
                lambda: server.client().config_set("maxmemory", 1),
                lambda: server.client().config_set("maxmemory", 0),
            ),
            "read_only": Fault(
                lambda: server.client().replicaof("127.0.0.1", 1),
                lambda: server.client().replicaof("NO", "ONE"),
            ),
            "replies_lost": Fault(
                lambda: proxy.lose_replies(1 << 30), lambda: proxy.lose_replies(0)
            ),
            "emptied": Fault(lambda: server.client().flushall()),
            "down_at_start": Fault(
                _nothing,
                server.start,
                prepare=lambda: restart_drafters_without_redis(drafters),
            ),
        }

    with running(server):
        try:
            yield Redis(proxy.url, faults)
        finally:
            proxy.stop()


@contextmanager
def sentinel(folder: Path) -> Iterator[Redis]:
    """A master and its replica, which change places at every failover."""
    group = Sentinels(folder)
    failover = Failover(group)
    with running(group.master, group.replica, *group.sentinels):
        wait_until(failover.may_begin, _GROUP_TIMEOUT_S)
        fault = Fault(failover.begin, failover.wait, prepare=failover.rejoin)
        yield Redis(group.url, lambda drafters: {"failover": fault})


class Failover:
    """Ends the master after some of its writes did not reach the replica."""

    def __init__(self, group: Sentinels) -> None:
        self._group = group
        self._master, self._replica = group.master, group.replica
        self._is_down = False

    def may_begin(self) -> bool:
        """Tell whether the replica is one that the sentinels would promote."""
        if self._replica.client().info("replication").get("master_link_status") != "up":
            return False
        known = [s.client().sentinel_slaves("lookahead") for s in self._group.sentinels]
        healthy = [
            len(slaves) == 1 and slaves[0]["flags"] == "slave" and _is_linked(slaves[0])
            for slaves in known
        ]
        return all(healthy) and self._group.watched()

    def begin(self) -> None:
        """Lose the master, and what it had acknowledged last."""
        self._replica.freeze()
        time.sleep(_LOST_WRITES_S)
        self._master.kill()
        self._replica.resume()
        self._is_down = True

    def wait(self) -> None:
        """Wait until the replica is the master."""
        # Asking takes time from the engine, which runs in this process.
        wait_until(self._promoted, _GROUP_TIMEOUT_S, step_s=0.2)
        self._master, self._replica = self._replica, self._master

    def rejoin(self) -> None:
        """Start the one that was lost as the replica, and wait until it may take over."""
        if self._is_down:
            self._replica.start()
            self._replica.client().replicaof("127.0.0.1", self._master.port)
            self._is_down = False
        wait_until(self.may_begin, _GROUP_TIMEOUT_S)

    def _promoted(self) -> bool:
        return bool(self._replica.client().info("replication")["role"] == "master")


def _is_linked(slave: dict[str, object]) -> bool:
    return slave["master-link-status"] == "ok"


@contextmanager
def cluster(folder: Path) -> Iterator[Redis]:
    """Three masters between which the memory's slot moves."""
    group = Cluster(folder)

    def move() -> None:
        keys = [key for node in group.nodes for key in node.client().keys("lookahead:{*}:log")]
        slot = ask(group.nodes[0], "CLUSTER", "KEYSLOT", keys[0])
        for _ in range(_SLOT_MOVES):
            group.move_slot(slot)
            time.sleep(_MOVE_EVERY_S)

    with running(*group.nodes):
        group.create()
        yield Redis(group.url, lambda drafters: {"resharding": Fault(move)})


KINDS = {"single": single, "sentinel": sentinel, "cluster": cluster}
