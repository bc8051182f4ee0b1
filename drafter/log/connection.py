"""Opens the clients for one URL: a single server, Sentinel or Cluster, over TCP, TLS or a socket.

The library's own retries are off: it would send an append twice and tell nobody.
"""

from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

# Below this a blocking read ends by itself, so a longer silence is a fault.
BLOCK_MS = 1000
_TIMEOUT_S = 3.0
_CONNECT_TIMEOUT_S = 1.0
_SINGLE = ("redis", "rediss", "unix")
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}


def open_client(url: str) -> "Redis | RedisCluster":
    """Return a client for the URL; connects when it is first used. ValueError names a bad part."""
    parts = urlsplit(url)
    if parts.scheme in _SINGLE:
        client: Redis = Redis.from_url(url, **_options())
        return client
    if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        return _open_sentinel(parts)
    if parts.scheme in ("redis+cluster", "rediss+cluster"):
        return _open_cluster(parts)
    raise ValueError(
        f"redis_url: scheme {parts.scheme!r} is none of redis, rediss, unix, redis+sentinel, "
        "redis+cluster"
    )


async def close_client(client: "Redis | RedisCluster") -> None:
    """Close a client, and the clients by which it asked Sentinels for the master."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager else ():
        await sentinel.aclose()


def describe(url: str) -> str:
    """Return the URL without user and password, for logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _options() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "protocol": 2,
    }


def _open_sentinel(parts: SplitResult) -> "Redis":
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("redis_url: a Sentinel URL ends in /SERVICE, the name of the master")
    if database and not database.isdecimal():
        raise ValueError(f"redis_url: database {database!r} is not a number")
    credentials, hosts, query = _credentials(parts), _hosts(parts, 26379), _query(parts)
    asked = {
        name: query.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in query
    }
    tls = {"ssl": True} | _tls(query) if parts.scheme.startswith("rediss") else _tls(query)
    sentinel_options = _options() | asked | tls
    sentinel = Sentinel(hosts, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    options = _options() | credentials | tls
    client: Redis = sentinel.master_for(service, db=int(database or 0), **options)
    return client


def _open_cluster(parts: SplitResult) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, 6379)]
    query = _query(parts)
    options = _options() | _credentials(parts) | _tls(query)
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)


def _credentials(parts: SplitResult) -> dict[str, str]:
    found, _, _ = parts.netloc.rpartition("@")
    username, _, password = found.partition(":")
    given = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for item in parts.netloc.rpartition("@")[2].split(","):
        host, colon, port = item.rpartition(":") if ":" in item else (item, "", "")
        if not host or (colon and not port.isdecimal()):
            raise ValueError(f"redis_url: {item!r} is not HOST or HOST:PORT")
        hosts.append((host.strip("[]"), int(port or default_port)))
    return hosts


def _query(parts: SplitResult) -> dict[str, str]:
    query = dict(parse_qsl(parts.query))
    allowed = _TLS_OPTIONS | {"sentinel_username", "sentinel_password"}
    unknown = sorted(query.keys() - allowed)
    if unknown:
        raise ValueError(f"redis_url: option {unknown[0]!r} is none of {sorted(allowed)}")
    return query


def _tls(query: dict[str, str]) -> dict[str, str]:
    return {name: query[name] for name in _TLS_OPTIONS if name in query}
