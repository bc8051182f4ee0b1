"""Which drafter to try next: names are looked up anew for every attempt.

The order of the names is kept, so the first may be the near one. Addresses behind one name come in
random order, so that many verifiers spread over them.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LOOKUP_S = 2.0


@dataclass(frozen=True, slots=True)
class DrafterEndpoint:
    """One replica: where it listens, and the name that its certificate must bear."""

    address: str  # host:port or unix:path
    host: str


class DrafterEndpoints:
    """All drafters that the names stand for."""

    def __init__(self, names: Sequence[str], rng: random.Random | None = None) -> None:
        self._names = names
        self._rng = rng or random.Random()
        self._tried: set[DrafterEndpoint] = set()

    async def next(self) -> DrafterEndpoint:
        """Return the first that was not tried yet; once all were, begin again."""
        found = [drafter for name in self._names for drafter in await self._look_up(name)]
        untried = [drafter for drafter in found if drafter not in self._tried]
        if not untried:
            self._tried.clear()
        chosen = (untried or found)[0]
        self._tried.add(chosen)
        return chosen

    def connected(self, drafter: DrafterEndpoint) -> None:
        """Note that this one works; when it is lost, all others come before it."""
        self._tried = {drafter}

    async def _look_up(self, name: str) -> list[DrafterEndpoint]:
        """Return one drafter per address behind `name`; gRPC reports what cannot be looked up."""
        host, _, port = name.rpartition(":")
        host = host.strip("[]")
        if name.startswith("unix:") or not port.isdecimal():
            return [DrafterEndpoint(name, host)]
        try:
            async with asyncio.timeout(LOOKUP_S):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, int(port), type=socket.SOCK_STREAM
                )
        except OSError as error:
            logger.info("drafter_unknown name=%s error=%s", name, error)
            return [DrafterEndpoint(name, host)]
        # Sorted, since the resolver's own order would be the same on every machine.
        addresses = sorted({_address(where[0], int(port)) for *_, where in found})
        self._rng.shuffle(addresses)
        return [DrafterEndpoint(address, host) for address in addresses]


def _address(host: str | int, port: int) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
