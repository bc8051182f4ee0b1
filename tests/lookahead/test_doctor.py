"""Every check of `lookahead doctor` says that all is well when it is, and what to do when not."""

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.topologies.groups import Cluster
from bench.topologies.server import Server, free_port, running
from lookahead.cli import app
from lookahead.doctor import model as model_checks
from lookahead.doctor.addresses import check_address
from lookahead.doctor.finding import Finding, Verdict
from lookahead.doctor.installed import check_packages, check_python
from lookahead.doctor.machine import (
    check_folder,
    check_gpu,
    check_kernels,
    check_load,
    check_threads,
)
from lookahead.doctor.memory import check_redis
from lookahead.doctor.model import check_model, check_served
from rpc.server import RpcServer
from tests.support.models.saved_model import save_small_model
from tests.support.servers.running_verifier import running as running_verifier

OK, WARNING, PROBLEM = Verdict.OK, Verdict.WARNING, Verdict.PROBLEM


def is_well(findings: list[Finding]) -> bool:
    return all(finding.verdict is OK for finding in findings)


def finding_named(findings: list[Finding], verdict: Verdict, *words: str) -> None:
    """Exactly one finding is not well: it is of this verdict and says these words."""
    [bad] = [finding for finding in findings if finding.verdict is not OK]
    assert bad.verdict is verdict
    assert bad.do
    for word in words:
        assert word in bad.what


def test_the_environment_that_runs_the_tests_is_complete() -> None:
    assert is_well([check_python(), *check_packages()])


def test_an_old_python_and_missing_or_old_packages_are_named() -> None:
    finding_named([check_python("3.9.1")], PROBLEM, "3.9.1")

    def installed(name: str) -> str:
        if name == "llguidance":
            raise PackageNotFoundError(name)
        return "2.1.0" if name == "torch" else version(name)

    findings = {finding.what: finding.do for finding in check_packages(installed)}
    assert set(findings) == {"llguidance is not installed", "torch 2.1.0 is installed"}
    assert all(do.startswith("pip install '") for do in findings.values())


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "LOOKAHEAD_VERIFIER_THREADS"])
def test_more_threads_than_cores_are_too_many(name: str) -> None:
    assert is_well([check_threads({}, 2), check_threads({name: "2"}, 2)])
    finding_named([check_threads({name: "8"}, 2)], WARNING, f"{name}=8", "2 cores")
    finding_named([check_threads({name: "many"}, 2)], PROBLEM, "many")


def test_a_busy_machine_is_told_from_a_quiet_one() -> None:
    assert is_well([check_load(0.3, 2)])
    finding_named([check_load(7.0, 2)], WARNING, "7.0 on 2 cores")


def test_a_folder_must_be_one_that_can_be_written_to(tmp_path: Path) -> None:
    assert is_well([check_folder(tmp_path / "new" / "cache")])
    (tmp_path / "file").touch()
    finding_named([check_folder(tmp_path / "file" / "cache")], PROBLEM, "file/cache")


def test_kernels_are_kept_where_they_outlast_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    kept = tmp_path / "kept"
    kept.mkdir()
    assert is_well([check_kernels(kept)])
    assert "compiled, in" not in check_kernels(kept).what
    (kept / "propose.nbi").touch()
    assert "compiled, in" in check_kernels(kept).what
    finding_named([check_kernels(tmp_path / "tmp" / "mine")], WARNING, "tmp/mine")
    assert check_kernels().about == "kernels"  # wherever they are here


def test_a_gpu_that_torch_cannot_use_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    driver = tmp_path / "version"
    assert is_well([check_gpu({}, driver)])
    finding_named([check_gpu({"LOOKAHEAD_VERIFIER_DEVICE": "cuda"}, driver)], PROBLEM, "no GPU")
    driver.touch()
    finding_named([check_gpu({}, driver)], WARNING, "NVIDIA driver", torch.__version__)


@pytest.mark.parametrize("name", ["verifier", "drafter", "gateway", "drafter metrics"])
def test_a_port_is_free_or_ours_or_taken(name: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert is_well([check_address(name, address, "--port")])
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        finding_named([check_address(name, address, "--port")], PROBLEM, address, "another program")


async def test_a_server_of_ours_is_known_while_it_starts() -> None:
    server = RpcServer(["lookahead.v1.VerifierService"])
    port = await server.start("127.0.0.1:0")
    finding = await asyncio.to_thread(check_address, "verifier", f"127.0.0.1:{port}", "--port")
    await server.stop()
    assert finding.verdict is OK and "already" in finding.what


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Redis set up as it should be."""
    server = Server(tmp_path / "redis", "--appendonly", "yes")
    with running(server):
        yield server


@pytest.mark.slow
def test_a_redis_that_keeps_things_is_well(server: Server) -> None:
    assert is_well(check_redis(server.url))
    assert is_well(check_redis(""))


def test_no_redis_wrong_ones_and_silent_ones_are_named() -> None:
    finding_named(check_redis("none"), WARNING, "ends with the drafter")
    finding_named(check_redis("http://localhost"), PROBLEM, "http")
    address = f"redis://user:secret@127.0.0.1:{free_port()}"
    finding_named(check_redis(address), PROBLEM, "127.0.0.1")
    assert "secret" not in check_redis(address)[0].what


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "verdict", "word"),
    [
        ("maxmemory-policy", "allkeys-lru", PROBLEM, "allkeys-lru"),
        ("appendonly", "no", WARNING, "keeps nothing"),
        ("maxmemory", "1100000", WARNING, "of its maxmemory"),
        ("replicaof", "127.0.0.1 1", PROBLEM, "is a replica"),
    ],
)
def test_settings_of_redis_that_lose_memory_are_named(
    server: Server, setting: str, value: str, verdict: Verdict, word: str
) -> None:
    if setting == "replicaof":
        server.client().execute_command("REPLICAOF", *value.split())
    else:
        server.client().config_set(setting, value)
    finding_named(check_redis(server.url), verdict, word)


@pytest.mark.slow
def test_a_clock_that_is_off_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("lookahead.doctor.memory.time.time", lambda: now - 60)
    finding_named(check_redis(server.url), WARNING, "+60 s")


@pytest.mark.slow
def test_a_cluster_can_be_asked(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    with running(*cluster.nodes):
        cluster.create()
        finding_named(check_redis(cluster.url), WARNING, "keeps nothing")


def test_a_model_must_be_there_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_small_model(folder)
    assert is_well(check_model(str(folder)))
    finding_named(check_model(str(tmp_path / "nothing")), PROBLEM, "is no model")
    finding_named(check_model(str(tmp_path / "nothing.gguf")), PROBLEM, "does not exist")
    (tmp_path / "text.gguf").write_text("not weights")
    finding_named(check_model(str(tmp_path / "text.gguf")), PROBLEM, "no GGUF file")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    finding_named(check_model(str(folder)), PROBLEM, ".safetensors")
    (folder / "config.json").write_text("{")
    finding_named(check_model(str(folder)), PROBLEM, str(folder))


def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_small_model(tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    monkeypatch.setattr("verifier.cache.memory.free_bytes", lambda device: size // 2)
    finding_named(check_model(str(tmp_path)), PROBLEM, "less than the weights take")
    monkeypatch.setattr("verifier.cache.memory.free_bytes", lambda device: size * 3 // 2)
    finding_named(check_model(str(tmp_path)), WARNING, "not enough for faster copies")


def test_models_of_a_hub_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    finding_named(check_model("some-team/some-model", {}), WARNING, "will be downloaded")
    offline = {"HF_HUB_OFFLINE": "1"}
    finding_named(check_model("some-team/some-model", offline), PROBLEM, "HF_HUB_OFFLINE")
    finding_named(check_model("no such: model", {}), PROBLEM, "neither a path nor a hub id")


async def test_a_running_verifier_says_whether_its_model_is_bitwise_and_how_it_runs() -> None:
    nobody = await asyncio.to_thread(check_served, f"127.0.0.1:{free_port()}")
    assert nobody == []
    async with running_verifier() as found:
        assert found.service.backend is not None
        address, description = f"127.0.0.1:{found.port}", found.service.backend.describe()
        description.bitwise, description.not_bitwise_reason = False, "its experts take turns"
        said = await asyncio.to_thread(check_served, address)
        finding_named(said, WARNING, "small", "its experts take turns")
        description.bitwise = True
        said = await asyncio.to_thread(check_served, address)
        assert is_well(said)
        assert any(finding.what.endswith("passes eager") for finding in said)
        description.launch_reason = "captured: no memory is left"
        said = await asyncio.to_thread(check_served, address)
        finding_named(said, WARNING, "passes eager", "no memory is left")


def test_the_demo_model_is_made_where_its_converter_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert is_well(check_model("demo", environ))
    monkeypatch.setattr(model_checks, "find_spec", lambda name: None)
    finding_named(check_model("demo", environ), PROBLEM, "not installed")


def test_the_command_ends_with_one_where_something_is_to_be_mended(tmp_path: Path) -> None:
    save_small_model(tmp_path)
    ports = [f"--{name}={free_port()}" for name in ("port", "drafter-port", "http-port")]
    arguments = ["doctor", f"--model={tmp_path}", *ports, "--metrics-port=0"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "Ready" in done.output) == (0, True)
    broken = CliRunner().invoke(app, [*arguments, "--redis=http://x", "--json"])
    assert broken.exit_code == 1
    [bad] = [row for row in json.loads(broken.output) if row["verdict"] == "problem"]
    assert bad["about"] == "redis"
    assert bad["do"]
