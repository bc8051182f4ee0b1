"""The log in Redis: one stream per space, its snapshots, and the lease to write them.

All keys of a space carry it as hash tag, so they live on one Cluster node and change together.
"""

import asyncio
import hashlib
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError, ResponseError, WatchError

from drafter.log.connection import BLOCK_MS, close_client, open_client
from drafter.log.protocol import Lease, LogEnd, Page, Publication, WrongType
from drafter.trie.snapshot import CHUNK_LEN, MAX_HEADER_LEN, MAX_POINTER_LEN, ZERO, EntryId

_PREFIX = "lookahead"
_INSTANCE = f"{_PREFIX}:birth"
_NEWS = f"{_PREFIX}:news"
_PAGE_ENTRIES = 64
# A reader that is further behind than this looks at every space instead.
_NEWS_KEPT = 10_000
_NEWS_PAGE = 1_000
# Calls at one time, each on a connection of its own; the news are read on one more.
_MAX_CALLS = 6
_LEASE_MS = 30_000
# Parts of an upload that never gets published go away by themselves.
_UPLOAD_S = 600
# Spaces whose last extension is remembered; others are extended again at their next entry.
_MAX_TOUCHED = 10_000
_MAX_EPOCH = 1 << 62
# No clock says so; behind such an entry there may be no room for others.
_MAX_MS = 1 << 62
# What the server says of keys and numbers that are not what a command needs.
_WRONG_TYPE = (
    "WRONGTYPE",
    "wrong kind of value",
    "not an integer",
    "would overflow",
    "last possible ID",
)
# zstd may grow what it cannot shrink, by far less than this.
_MAX_PART_LEN = max(CHUNK_LEN, MAX_HEADER_LEN) + (1 << 16)


class RedisLog:
    """The Log over one Redis URL. Every failure to reach or use it is a ConnectionError."""

    def __init__(self, url: str, *, ttl_s: int | None = None) -> None:
        self._client: Any = open_client(url)
        # The blocking read waits on a connection of its own.
        self._tail: Any = open_client(url)
        self._free = asyncio.Semaphore(_MAX_CALLS)
        self._ttl_s = ttl_s
        self._touched: dict[str, float] = {}
        self._may_getrange = True  # users made for earlier versions may not

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
            self._read_pointer(pipe, space)
            pipe.exists(_key(space, "wanted"))
            pipe.xinfo_stream(_key(space, "log"))
            *answers, info = await pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, NoPermissionError):
                self._may_getrange = False
            if isinstance(answer, Exception):
                raise _connection_error(answer)
        found, pointer, wanted = answers
        if pointer and len(pointer) > MAX_POINTER_LEN:
            raise WrongType("the pointer is too long")
        entries = [(_entry_id(name), fields.get(b"e", b"")) for name, fields in found]
        return Page(entries, pointer or None, bool(wanted), _end(info))

    @staticmethod
    def news_name(space: str) -> bytes:
        """Return what a space is called in the news, which outlive a space that is forgotten."""
        return hashlib.blake2b(space.encode(), digest_size=8).digest()

    async def news_end(self) -> str:
        """Return the place behind the newest of the news."""
        async with self._calls() as client:
            there = await client.exists(_NEWS)
            found = await _or_remove(client, _NEWS, client.xinfo_stream) if there else None
        name: bytes = (found or {}).get("last-generated-id", b"0-0")
        return name.decode()

    async def news(self, cursor: str) -> tuple[str, list[bytes]]:
        """Return a place and the `news_name` of each space that changed up to there.

        Waits up to a second for the first. Names come once; an old one may be gone.
        """
        async with _as_connection_error():
            found = await self._tail.xread({_NEWS: cursor}, count=_NEWS_PAGE, block=BLOCK_MS)
        entries = found[0][1] if found else []
        if not entries:
            return cursor, []
        names = dict.fromkeys(fields.get(b"s", b"") for _, fields in entries)
        return entries[-1][0].decode(), list(names)

    async def append(self, space: str, data: bytes) -> None:
        """Append one entry."""
        async with self._calls() as client:
            await client.xadd(_key(space, "log"), {b"e": data})
            await self._touch(space)
            await self._announce(space)

    async def instance_id(self) -> str:
        """Return the name that this Redis got when a drafter first met it; gone with its data."""
        async with self._calls() as client:
            name = await _or_remove(client, _INSTANCE, client.get)
            if name is None:
                await client.set(_INSTANCE, uuid.uuid4().hex, nx=True)
                name = await client.get(_INSTANCE)
        return (name or b"").decode(errors="replace")

    async def acquire(self, space: str) -> Lease | None:
        """Take the lease to write a snapshot, unless somebody has it."""
        token = uuid.uuid4().hex
        async with self._calls() as client:
            if not await client.set(_key(space, "lease"), token, nx=True, px=_LEASE_MS):
                # Whoever holds it, it ends: one that never would is not of our making.
                await client.pexpire(_key(space, "lease"), _LEASE_MS, nx=True)
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
        try:
            async with self._calls() as client:
                if await client.hstrlen(name, part) > _MAX_PART_LEN:
                    return None
                data: bytes | None = await client.hget(name, part)
        except WrongType:
            return None
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
            await self._announce(space)
        self._touched.pop(space, None)
        return True

    async def want_snapshot(self, space: str) -> None:
        """Ask whoever can to write a snapshot soon."""
        async with self._calls() as client:
            await client.set(_key(space, "wanted"), b"1", ex=30)
            await self._announce(space)

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
            await self._announce(space)

    async def keys(self, pattern: str) -> AsyncIterator[bytes]:
        """Yield the keys that match; a drafter has no need, and often no right, to do this."""
        async with self._calls() as client:
            async for key in client.scan_iter(match=pattern, count=1000):
                yield key

    async def wrong_keys(self, space: str) -> set[str]:
        """Name the keys of a space that are of another type than ours."""
        wrong = set()
        async with self._calls() as client:
            for name, read in (
                ("log", lambda key: self._last_id(client, key)),
                ("pointer", lambda _: self._read_pointer(client, space)),
                ("epoch", client.get),
                ("snapshots", client.smembers),
            ):
                try:
                    found = await read(_key(space, name))
                except ResponseError as error:
                    if not isinstance(_connection_error(error), WrongType):
                        raise
                    wrong.add(name)
                    continue
                if found and not _is_sane(name, found):
                    wrong.add(name)
        return wrong

    def _read_pointer(self, client: Any, space: str) -> Any:
        """Read no more than a pointer may hold, and one byte, where the user has the right to."""
        key = _key(space, "pointer")
        return client.getrange(key, 0, MAX_POINTER_LEN) if self._may_getrange else client.get(key)

    @staticmethod
    async def _last_id(client: Any, key: str) -> EntryId:
        return _end(await client.xinfo_stream(key) if await client.exists(key) else None).last_id

    async def remove(self, space: str, names: set[str]) -> None:
        """Delete keys of a space."""
        async with self._calls() as client:
            for name in sorted(names):
                await client.unlink(_key(space, name))
            await self._announce(space)

    async def _may_publish(
        self, pipe: Any, space: str, lease: Lease, publication: Publication
    ) -> bool:
        """Compare what is watched, and what a failover may have lost, with what is expected."""
        covered = publication.pointer.newest.covered
        if await pipe.get(_key(space, "lease")) != lease.token.encode():
            return False
        if (await self._read_pointer(pipe, space) or None) != publication.expected:
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

    async def _announce(self, space: str) -> None:
        """Tell all readers that a space changed. They look by themselves later where this fails."""
        with suppress(RedisError, OSError, TimeoutError):
            await self._client.xadd(
                _NEWS, {b"s": self.news_name(space)}, maxlen=_NEWS_KEPT, approximate=True
            )

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
        if len(self._touched) > _MAX_TOUCHED:
            del self._touched[next(iter(self._touched))]

    @asynccontextmanager
    async def _calls(self) -> AsyncIterator[Any]:
        """Lend the client; a server that has become read-only is left for whoever is master now."""
        async with _as_connection_error(), self._free:
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
    said = f"{type(error).__name__}: {error}"
    is_wrong = isinstance(error, ResponseError) and any(sign in said for sign in _WRONG_TYPE)
    return WrongType(said) if is_wrong else ConnectionError(said)


async def _or_remove(client: Any, key: str, read: Callable[[str], Awaitable[Any]]) -> Any:
    """Read a key; one of another type than ours is deleted."""
    try:
        return await read(key)
    except ResponseError as error:
        if not isinstance(_connection_error(error), WrongType):
            raise
        await client.unlink(key)
        return None


def _is_sane(name: str, found: Any) -> bool:
    """Tell whether a key of the right type holds what one of ours may."""
    if name == "epoch":
        return bool(found.isdigit() and int(found[:20]) < _MAX_EPOCH)
    if name == "pointer":
        return len(found) <= MAX_POINTER_LEN
    return name != "log" or bool(found[0] < _MAX_MS)


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


KEYS_OF_SPACES = _key("*", "*")


def space_of_key(key: bytes) -> str:
    """Return the space that a key belongs to; empty where it belongs to none."""
    name = key.decode(errors="replace").removeprefix(f"{_PREFIX}:{{")
    space, end, _ = name.rpartition("}:")
    return space if end else ""


def _text(entry_id: EntryId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def _entry_id(text: bytes) -> EntryId:
    ms, _, sequence = text.partition(b"-")
    return int(ms), int(sequence)
