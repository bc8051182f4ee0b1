"""The log in Redis: one stream per space, its snapshots, and the lease to write them.

All keys of a space carry it as hash tag, so they live on one Cluster node and change together.
"""

import asyncio
import uuid
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import ReadOnlyError, RedisError, WatchError

from drafter.log.connection import BLOCK_MS, close_client, open_client
from drafter.log.protocol import Lease, LogEnd, Page, Publication
from drafter.trie.snapshot import CHUNK_LEN, MAX_HEADER_LEN, ZERO, EntryId

_PREFIX = "lookahead"
_INSTANCE = f"{_PREFIX}:birth"
_PAGE_ENTRIES = 64
_LEASE_MS = 30_000
# Parts of an upload that never gets published go away by themselves.
_UPLOAD_S = 600
# zstd may grow what it cannot shrink, by far less than this.
_MAX_PART_LEN = max(CHUNK_LEN, MAX_HEADER_LEN) + (1 << 16)


class RedisLog:
    """The Log over one Redis URL. Every failure to reach or use it is a ConnectionError."""

    def __init__(self, url: str, *, ttl_s: int | None = None) -> None:
        self._client: Any = open_client(url)
        # Blocking reads wait on connections of their own.
        self._tail: Any = open_client(url)
        self._ttl_s = ttl_s
        self._touched: dict[str, float] = {}

    async def close(self) -> None:
        """Close all connections."""
        async with _as_connection_error():
            await asyncio.gather(close_client(self._client), close_client(self._tail))
        # What was closed without waiting, ends in the next turns of the loop.
        await asyncio.sleep(0.01)

    async def read(self, space: str, cursor: EntryId) -> Page:
        """Read the entries from the cursor's own on, then the pointer, in this order."""
        async with self._calls() as client, client.pipeline(transaction=False) as pipe:
            pipe.xrange(_key(space, "log"), min=_text(cursor), count=_PAGE_ENTRIES)
            pipe.get(_key(space, "pointer"))
            pipe.exists(_key(space, "wanted"))
            pipe.xinfo_stream(_key(space, "log"))
            *answers, info = await pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise _connection_error(answer)
        found, pointer, wanted = answers
        entries = [(_entry_id(name), fields.get(b"e", b"")) for name, fields in found]
        return Page(entries, pointer, bool(wanted), _end(info))

    async def wait(self, space: str, cursor: EntryId) -> None:
        """Return when there is an entry behind the cursor, or after a second."""
        async with _as_connection_error():
            await self._tail.xread({_key(space, "log"): _text(cursor)}, count=1, block=BLOCK_MS)

    async def append(self, space: str, data: bytes) -> None:
        """Append one entry."""
        async with self._calls() as client:
            await client.xadd(_key(space, "log"), {b"e": data})
            await self._touch(space)

    async def instance_id(self) -> str:
        """Return the name that this Redis got when a drafter first met it; gone with its data."""
        async with self._calls() as client:
            name = await client.get(_INSTANCE)
            if name is None:
                await client.set(_INSTANCE, uuid.uuid4().hex, nx=True)
                name = await client.get(_INSTANCE)
        return (name or b"").decode()

    async def acquire(self, space: str) -> Lease | None:
        """Take the lease to write a snapshot, unless somebody has it."""
        token = uuid.uuid4().hex
        async with self._calls() as client:
            if not await client.set(_key(space, "lease"), token, nx=True, px=_LEASE_MS):
                return None
            lease = Lease(token, int(await client.incr(_key(space, "epoch"))))
            await client.sadd(_key(space, "snapshots"), lease.key)
        return lease

    async def write_part(self, space: str, lease: Lease, part: str, data: bytes) -> bool:
        """Write one part of a snapshot and extend the lease; False when the lease is lost."""
        key = _key(space, lease.key)
        async with self._calls() as client, client.pipeline(transaction=True) as pipe:
            pipe.get(_key(space, "lease"))
            pipe.hset(key, part, data)
            pipe.expire(key, _UPLOAD_S)
            pipe.pexpire(_key(space, "lease"), _LEASE_MS)
            holder, *_ = await pipe.execute()
            if holder == lease.token.encode():
                return True
            await client.unlink(key)
        return False

    async def read_part(self, space: str, key: str, part: str) -> bytes | None:
        """Read one part of a snapshot; None where it is missing or larger than any may be."""
        name = _key(space, key)
        async with self._calls() as client:
            if await client.hstrlen(name, part) > _MAX_PART_LEN:
                return None
            data: bytes | None = await client.hget(name, part)
        return data

    async def publish(self, space: str, lease: Lease, publication: Publication) -> bool:
        """Switch the pointer, trim the log and drop what is no longer needed, all or nothing."""
        async with self._calls() as client, client.pipeline(transaction=True) as pipe:
            await pipe.watch(_key(space, "lease"), _key(space, "pointer"))
            if not await self._may_publish(pipe, space, lease, publication):
                return False
            known = await pipe.smembers(_key(space, "snapshots"))
            self._queue_publication(pipe, space, publication, {name.decode() for name in known})
            try:
                await pipe.execute()
            except WatchError:
                return False
        self._touched.pop(space, None)
        return True

    async def want_snapshot(self, space: str) -> None:
        """Ask whoever can to write a snapshot soon."""
        async with self._calls() as client:
            await client.set(_key(space, "wanted"), b"1", ex=30)

    async def forget(self, space: str) -> None:
        """Delete all that Redis holds of a space."""
        async with self._calls() as client:
            known = await client.smembers(_key(space, "snapshots"))
            names = ["log", "lease", "epoch", "wanted", "snapshots"]
            names += [name.decode() for name in known]
            async with client.pipeline(transaction=True) as pipe:
                # Written before it is deleted, so that whoever watches it notices.
                pipe.set(_key(space, "pointer"), b"")
                _queue_unlink(pipe, space, ["pointer", *names])
                await pipe.execute()

    async def _may_publish(
        self, pipe: Any, space: str, lease: Lease, publication: Publication
    ) -> bool:
        """Compare what is watched, and what a failover may have lost, with what is expected."""
        covered = publication.pointer.newest.covered
        if await pipe.get(_key(space, "lease")) != lease.token.encode():
            return False
        if await pipe.get(_key(space, "pointer")) != publication.expected:
            return False
        if await pipe.hlen(_key(space, lease.key)) != publication.num_parts:
            return False
        if covered == ZERO:
            return True
        found = await pipe.xrange(_key(space, "log"), _text(covered), _text(covered))
        checks = [zlib.crc32(fields.get(b"e", b"")) for _, fields in found]
        return checks == [publication.check]

    def _queue_publication(
        self, pipe: Any, space: str, publication: Publication, known: set[str]
    ) -> None:
        used = {generation.key for generation in publication.pointer.generations}
        pipe.multi()
        pipe.set(_key(space, "pointer"), publication.pointer.dumps())
        for key in sorted(used):
            pipe.persist(_key(space, key))
        if publication.trim_to > ZERO:
            pipe.xtrim(_key(space, "log"), minid=_text(publication.trim_to), approximate=False)
        dropped = sorted((known | set(publication.drop)) - used)
        if dropped:
            pipe.srem(_key(space, "snapshots"), *dropped)
        _queue_unlink(pipe, space, [*dropped, "wanted", "lease"])

    async def _touch(self, space: str) -> None:
        """Put off the end of a space's life, not at every append."""
        now = asyncio.get_running_loop().time()
        if self._ttl_s is None or now - self._touched.get(space, -1e9) < self._ttl_s / 10:
            return
        known = await self._client.smembers(_key(space, "snapshots"))
        names = ["log", "pointer", "epoch", "snapshots", *(name.decode() for name in known)]
        async with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.expire(_key(space, name), self._ttl_s)
            await pipe.execute()
        self._touched[space] = now

    @asynccontextmanager
    async def _calls(self) -> AsyncIterator[Any]:
        """Lend the client; a server that has become read-only is left for whoever is master now."""
        async with _as_connection_error():
            try:
                yield self._client
            except ReadOnlyError:
                await self._disconnect()
                raise

    async def _disconnect(self) -> None:
        for client in (self._client, self._tail):
            if hasattr(client, "connection_pool"):
                await client.connection_pool.disconnect(inuse_connections=False)


@asynccontextmanager
async def _as_connection_error() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise _connection_error(error) from error


def _connection_error(error: Exception) -> ConnectionError:
    return ConnectionError(f"{type(error).__name__}: {error}")


def _end(info: Any) -> LogEnd:
    """Read what the server says of a stream; without one it answers with an error."""
    if not isinstance(info, dict):
        return LogEnd()
    last_id = _entry_id(info.get("last-generated-id", b"0-0"))
    return LogEnd(last_id, int(info.get("entries-added", 0)), int(info.get("length", 0)))


def _queue_unlink(pipe: Any, space: str, names: list[str]) -> None:
    # The method of a Cluster pipeline would split this up and run it at once.
    pipe.execute_command("UNLINK", *(_key(space, name) for name in names))


def _key(space: str, name: str) -> str:
    return f"{_PREFIX}:{{{space}}}:{name}"


def _text(entry_id: EntryId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def _entry_id(text: bytes) -> EntryId:
    ms, _, sequence = text.partition(b"-")
    return int(ms), int(sequence)
