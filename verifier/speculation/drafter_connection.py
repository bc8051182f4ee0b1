"""A stream to one of the drafters, and another one whenever it breaks.

Names are looked up anew for every attempt. Their order is kept, so the first may be the near one.
Addresses behind one name come in random order, so that many verifiers spread over them.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from protos import drafter_pb2 as pb
from protos.drafter_pb2_grpc import DrafterServiceStub
from rpc.tls import TlsFiles, open_async_channel

logger = logging.getLogger(__name__)

LOOKUP_S = 2.0
CONNECT_S = 2.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.05, 2.0
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 8 << 20)]

DraftCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.DraftRequest, pb.DraftResponse]"
Talk = Callable[[DraftCall], Awaitable[None]]


class DrafterConnection:
    """Keeps a stream to a drafter while there is one to be had."""

    def __init__(self, names: Sequence[str], tls: TlsFiles | None) -> None:
        self._endpoints = DrafterEndpoints(names)
        self._tls = tls

    async def keep(self, talk: Talk) -> None:
        """Let `talk` have one stream after the other; never returns."""
        backoff_s = MIN_BACKOFF_S
        while True:
            endpoint = await self._endpoints.next()
            started = time.perf_counter()
            try:
                await self._connect(endpoint, talk)
            except grpc.aio.AioRpcError as error:
                logger.info("drafter_lost address=%s reason=%s", endpoint.address, error.details())
            except OSError as error:  # too late, or a certificate's file that cannot be read
                reason = str(error) or type(error).__name__
                logger.info("drafter_unreachable address=%s reason=%s", endpoint.address, reason)
            except asyncio.CancelledError:
                # Raised by `talk`'s own cancel of a hanging call too; only a real one ends us.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            quick = time.perf_counter() - started < MAX_BACKOFF_S
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S) if quick else MIN_BACKOFF_S
            await asyncio.sleep(backoff_s)

    async def _connect(self, endpoint: "DrafterEndpoint", talk: Talk) -> None:
        # The certificate bears the name, whatever address it was looked up to.
        options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", endpoint.host)]
        async with open_async_channel(endpoint.address, self._tls, options) as channel:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_S)
            self._endpoints.connected(endpoint)
            logger.info("drafter_connected address=%s", endpoint.address)
            await talk(DrafterServiceStub(channel).Draft())


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
