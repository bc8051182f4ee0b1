"""One URL, several topologies: TLS with users, Sentinel, Cluster; faults of the last two."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, RedisError

from bench.topologies.groups import Cluster, Sentinels, ask
from bench.topologies.server import Server, running, wait_until
from drafter.log.connection import describe, open_client
from tests.support.memory.memory_peers import SPACE, agree, peers, some_run
from tests.support.servers.redis_server import redis_binary
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

# What a drafter's user may do; docs/memory.md shows the same list.
ACL = (
    "+xadd +xread +xrange +xtrim +get +set +exists +incrby +sadd +srem +smembers +hset +hget "
    "+hstrlen +hlen +expire +pexpire +persist +unlink +watch +unwatch +multi +exec +discard +ping "
    "+hello +xinfo|stream"
)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://h", "scheme"),
        ("redis+sentinel://h:1", "SERVICE"),
        ("redis+sentinel://h:x/service", "HOST:PORT"),
        ("redis+sentinel://h:1/service/x", "database"),
        ("redis+cluster://h:1?color=red", "color"),
        ("redis+cluster://h:1,:2", "HOST:PORT"),
    ],
)
def test_bad_url_is_refused_by_name(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        open_client(url)


def test_password_is_never_described() -> None:
    for url in ("redis://u:secret@h:1/0", "redis+cluster://u:secret@h:1,k:2"):
        assert "secret" not in describe(url)
        assert "h:1" in describe(url)


async def learn_together(url: str, first: int = 0) -> None:
    async with peers(url, 2) as (one, two):
        for seed in range(first, first + 100):
            one.memory.append(SPACE, some_run(seed))
        await eventually(lambda: agree([one, two], 100), 20.0)
        await eventually(lambda: one.memory.status().snapshots + two.memory.status().snapshots == 1)
        async with peers(url, 1) as (three,):
            await eventually(lambda: agree([one, three], 100))
        assert await one.memory.forget(SPACE) == 100 * 51


async def test_unix_socket(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", "--unixsocket", str(tmp_path / "r.sock"))
    with running(server):
        await learn_together(f"unix://{tmp_path}/r.sock")


@pytest.mark.system
async def test_tls_with_client_certificate_and_least_rights(tmp_path: Path) -> None:
    binary = redis_binary()
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    make_certificates(tmp_path)
    acl = tmp_path / "users.acl"
    rights = f"user drafter on >secret ~lookahead:* resetchannels -@all {ACL}\n"
    acl.write_text(f"user default off\n{rights}user admin on >admin ~* +@all\n")
    server = Server(tmp_path / "s", *tls_options(tmp_path, acl), binary=binary)
    url = (
        f"rediss://drafter:secret@127.0.0.1:{server.tls_port}?ssl_ca_certs={tmp_path}/ca.crt"
        f"&ssl_certfile={tmp_path}/client.crt&ssl_keyfile={tmp_path}/client.key"
    )
    with running(server):
        await learn_together(url)
        client = open_client(url)
        for command in (("FLUSHALL",), ("KEYS", "*"), ("GET", "foreign"), ("CONFIG", "GET", "*")):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)
        await client.aclose()
        nobody = open_client(url.replace(f"&ssl_certfile={tmp_path}/client.crt", ""))
        with pytest.raises((RedisError, OSError)):
            await nobody.ping()
        await nobody.aclose()


def make_certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    request = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*request, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(*request, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.crt")


def tls_options(folder: Path, acl: Path) -> list[str]:
    return [
        *("--aclfile", str(acl), "--tls-ca-cert-file", str(folder / "ca.crt")),
        *("--tls-cert-file", str(folder / "server.crt")),
        *("--tls-key-file", str(folder / "server.key"), "--tls-auth-clients", "yes"),
    ]


# --- Sentinel


async def test_sentinel_failover_that_loses_writes(tmp_path: Path) -> None:
    group = Sentinels(tmp_path)
    with running(group.master, group.replica, *group.sentinels):
        await asyncio.to_thread(wait_until, group.replicated)
        await asyncio.to_thread(wait_until, group.watched, 20.0)
        async with peers(group.url, 2) as (one, two):
            for seed in range(30):
                one.memory.append(SPACE, some_run(seed))
            await eventually(lambda: agree([one, two], 30), 20.0)
            # From here on the replica hears nothing, so what is acknowledged now gets lost.
            group.replica.freeze()
            await asyncio.sleep(0.1)
            one.memory.append(SPACE, some_run(1000))
            await eventually(lambda: two.knows(some_run(1000)))
            group.master.kill()
            group.replica.resume()
            one.memory.append(SPACE, some_run(2000))
            await eventually(lambda: two.knows(some_run(2000)) and settled(one, two), 20.0)
            assert one.knows(some_run(29))
            async with peers(group.url, 1) as (three,):
                await eventually(lambda: agree([one, three], num_runs(one)))


def settled(one: Any, two: Any) -> bool:
    return num_runs(one) == num_runs(two) and agree([one, two], num_runs(one))


def num_runs(peer: Any) -> int:
    return int(peer.replica().trie.num_tokens) // 51


# --- Cluster


async def test_cluster_keeps_learning_while_its_slot_moves(tmp_path: Path) -> None:
    group = Cluster(tmp_path)
    with running(*group.nodes):
        await asyncio.to_thread(group.create)
        slot = ask(group.nodes[0], "CLUSTER", "KEYSLOT", f"{{{SPACE}}}")
        async with peers(group.url, 2) as (one, two):
            for turn in range(3):
                for seed in range(20):
                    one.memory.append(SPACE, some_run(100 * turn + seed))
                await asyncio.to_thread(group.move_slot, slot)
                await eventually(lambda turn=turn: agree([one, two], 20 * (turn + 1)), 15.0)  # type: ignore[misc]
            assert one.memory.status().holes == 0


async def test_cluster_learns_snapshots_and_forgets(tmp_path: Path) -> None:
    group = Cluster(tmp_path)
    with running(*group.nodes):
        await asyncio.to_thread(group.create)
        await learn_together(group.url)
        left = [key for node in group.nodes for key in node.client().keys("*")]
        assert sorted(left) == [b"lookahead:birth", b"lookahead:news"]
