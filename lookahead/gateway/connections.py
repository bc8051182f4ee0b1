"""The connections of a gateway: how many there may be, and who goes when there are too many.

A connection that waits for its client, for a whole request or for the next one, makes room for a
new one. One whose request is being answered never does.
"""

import ipaddress
import resource
from collections import Counter
from typing import Protocol

SPARE_DESCRIPTORS = 64  # for verifiers, logs, files and what the interpreter opens
IPV6_PREFIX = 8  # bytes: one household or host is given all addresses that begin with them


class Connection(Protocol):
    """What is asked of a connection."""

    def drop(self) -> None:
        """Close at once."""


class Connections:
    """Counts connections by address, and knows which of them wait for their client."""

    def __init__(self, *, limit: int, limit_per_address: int) -> None:
        self.limit = min(limit, max_connections())
        self.limit_per_address = limit_per_address
        self.num_refused = 0
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, dict[Connection, None]] = {}  # longest wait first

    def __len__(self) -> int:
        return self._counts.total()

    def admit(self, address: str) -> bool:
        """Whether a new connection of the address may stay; another one may have to go for it."""
        whose = owner(address)
        if self._counts[whose] >= self.limit_per_address:
            return self._make_room(whose)
        if len(self) >= self.limit:
            # Whoever holds most pays; of two with as many, the newcomer.
            most = max((whose, *self._waiting), key=self._counts.__getitem__)
            return self._make_room(most)
        return True

    def add(self, connection: Connection, address: str) -> None:
        """Count a new connection, which waits for its client."""
        self._counts[owner(address)] += 1
        self.wait(connection, address)

    def remove(self, connection: Connection, address: str) -> None:
        """Forget a connection."""
        whose = owner(address)
        self.work(connection, address)
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]

    def wait(self, connection: Connection, address: str) -> None:
        """Note that the connection waits for its client from now on."""
        self._waiting.setdefault(owner(address), {})[connection] = None

    def work(self, connection: Connection, address: str) -> None:
        """Note that the client waits for us."""
        waiting = self._waiting.get(owner(address), {})
        waiting.pop(connection, None)
        if not waiting:
            self._waiting.pop(owner(address), None)

    def _make_room(self, whose: str) -> bool:
        self.num_refused += 1
        longest = next(iter(self._waiting.get(whose, ())), None)
        if longest is None:
            return False
        longest.drop()
        return True


def owner(address: str) -> str:
    """Return what stands for all addresses of one client."""
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    if whole.ipv4_mapped:
        return str(whole.ipv4_mapped)
    return whole.packed[:IPV6_PREFIX].hex()


def max_connections() -> int:
    """Return how many connections this process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(16, soft - SPARE_DESCRIPTORS)
