"""Servers that work together on loopback: a Sentinel group and a Cluster."""

from pathlib import Path
from typing import Any

from bench.topologies.server import Server, free_port, wait_until


class Sentinels:
    """A master, a replica of it and three sentinels."""

    def __init__(self, folder: Path) -> None:
        self.master = Server(folder / "master")
        follow = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = Server(folder / "replica", *follow)
        self.sentinels = [self._sentinel(folder / f"sentinel-{n}") for n in range(3)]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/lookahead"

    def _sentinel(self, folder: Path) -> Server:
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor lookahead 127.0.0.1 {self.master.port} 2\n"
            "sentinel down-after-milliseconds lookahead 1000\n"
            "sentinel failover-timeout lookahead 4000\n"
        )
        return Server(folder, str(config), "--sentinel")

    def replicated(self) -> bool:
        return bool(self.replica.client().info("replication")["master_link_status"] == "up")

    def watched(self) -> bool:
        states = [s.client().sentinel_master("lookahead") for s in self.sentinels]
        return all(s["num-other-sentinels"] == 2 and s["num-slaves"] == 1 for s in states)


class Cluster:
    """Three masters on loopback."""

    def __init__(self, folder: Path) -> None:
        # The default, the port plus 10000, may not exist.
        self._bus_ports = [free_port() for _ in range(3)]
        self.nodes = [
            self._node(folder / f"node-{n}", port) for n, port in enumerate(self._bus_ports)
        ]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"

    def _node(self, folder: Path, bus_port: int) -> Server:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        return Server(folder, *options, "--cluster-port", str(bus_port))

    def create(self) -> None:
        cuts = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.nodes):
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(node, "CLUSTER", "ADDSLOTSRANGE", cuts[number], cuts[number + 1] - 1)
            if number:
                ask(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self._bus_ports[0])
        wait_until(lambda: all(self._ready(node) for node in self.nodes), 20.0)

    def _ready(self, node: Server) -> bool:
        info = ask(node, "CLUSTER", "INFO")
        return "cluster_state:ok" in str(info) and "cluster_known_nodes:3" in str(info)

    def move_slot(self, slot: int) -> None:
        """Move a slot from its node to another while it is in use."""
        names = [ask(node, "CLUSTER", "MYID").decode() for node in self.nodes]
        source = next(n for n, node in enumerate(self.nodes) if self._owns(node, slot))
        target = (source + 1) % 3
        here, there = self.nodes[source], self.nodes[target]
        ask(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        ask(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        while keys := ask(here, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            ask(here, "MIGRATE", "127.0.0.1", there.port, "", 0, 5000, "KEYS", *keys)
        for node in (there, here, *self.nodes):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def _owns(self, node: Server, slot: int) -> bool:
        mine = next(line for line in self._lines(node) if "myself" in line)
        ranges = [part.partition("-") for part in mine.split()[8:] if part[0] != "["]
        return any(int(a) <= slot <= int(b or a) for a, _, b in ranges)

    def _lines(self, node: Server) -> list[str]:
        text: bytes = ask(node, "CLUSTER", "NODES")
        return text.decode().splitlines()


def ask(node: Server, *command: Any) -> Any:
    """Send a command whose reply no client library should interpret."""
    client = node.client()
    client.response_callbacks.clear()
    return client.execute_command(*command)
