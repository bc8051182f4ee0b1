"""A Docker engine for the test: the one that runs here, or one of our own in .engine/.

One of our own has no registry: the images that Dockerfiles start from are made of Debian packages
then, under the names that the Dockerfiles know.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT as ROOT

STATE = Path(os.environ.get("LOOKAHEAD_ENGINE_DIR", ROOT / ".engine"))
PYTHON_IMAGE = "python:3.11-slim-bookworm"
REDIS_IMAGE = "redis:7.4-bookworm"
PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
BUILD_IMAGE = "lookahead-test-build"
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
# Debian's own client can build with BuildKit; others need a plug-in for that.
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}") or "docker"

REDIS_DOCKERFILE = f"""
FROM {PYTHON_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && apt-get clean \\
    && groupadd --gid 999 --non-unique owner && useradd --uid 999 --gid 999 --non-unique owner \\
    && install -d -o 999 -g 999 /data
"""
PROMETHEUS_DOCKERFILE = f"""
FROM {PYTHON_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && apt-get clean \\
    && install -d -o 65534 -g 65534 /prometheus
ENTRYPOINT ["prometheus"]
"""
# What docker's own Python image has, from Debian's packages; and links where it has its programs.
BASE_HOOK = f"""
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
for name in python python3; do ln -sf /usr/bin/python3 "$1"/usr/local/bin/$name; done
for name in pip pip3; do ln -sf /usr/bin/pip3 "$1"/usr/local/bin/$name; done
cp {CA_FILE} "$1"{CA_FILE}
"""


def docker(*arguments: str | Path, stdin: str | None = None) -> str:
    """Run the docker client; return what it prints, or fail with it."""
    done = subprocess.run(
        [DOCKER, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    assert done.returncode == 0, f"docker {arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@contextmanager
def running_engine() -> Iterator[None]:
    """Have an engine for the length of a `with` block; skip, or fail, where none can be had."""
    if _answers():
        _pull_images()
        yield
        return
    missing = [name for name in ("dockerd", "mmdebstrap", "iptables") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        _refuse("no Docker engine runs, and starting one takes root and " + ", ".join(missing))
    with _own_engine():
        _make_images()
        yield


@contextmanager
def _own_engine() -> Iterator[None]:
    process, log = _start()
    try:
        deadline = time.monotonic() + 60
        while not _answers():
            # Skipped even where system tests are required, which asks for packages: a machine that
            # gives no privileges, cgroups or overlays is not mended by any.
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"no Docker engine starts here: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        del os.environ["DOCKER_HOST"]


def build_arguments() -> list[str]:
    """Arguments that let an image be built from what this machine has."""
    known = subprocess.run([DOCKER, "image", "inspect", BUILD_IMAGE], capture_output=True)
    if known.returncode != 0:
        return []
    return [f"--build-arg=BUILD_IMAGE={BUILD_IMAGE}", "--build-arg=CPU_TORCH_LINKS=/wheels"]


def _answers() -> bool:
    try:
        return subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _refuse(reason: str) -> None:
    if os.environ.get("LOOKAHEAD_REQUIRE_SYSTEM_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)


def _start() -> tuple["subprocess.Popen[bytes]", Path]:
    """Start an engine that the client will talk to; return it and its log."""
    STATE.mkdir(parents=True, exist_ok=True)
    host, log_path = f"unix://{STATE}/docker.sock", STATE / "dockerd.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                "dockerd", "--host", host, "--storage-driver", "overlay2",
                "--data-root", STATE / "data", "--exec-root", STATE / "exec",
                "--pidfile", STATE / "dockerd.pid",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    os.environ["DOCKER_HOST"] = host
    return process, log_path


def _pull_images() -> None:
    """Have the engine that runs fetch what it lacks; skip where it reaches no registry."""
    for image in (PYTHON_IMAGE, REDIS_IMAGE, PROMETHEUS_IMAGE):
        known = subprocess.run([DOCKER, "image", "inspect", image], capture_output=True)
        if known.returncode == 0:
            continue
        pulled = subprocess.run([DOCKER, "pull", image], capture_output=True, text=True)
        if pulled.returncode != 0:
            pytest.skip(f"the Docker engine that runs here cannot get {image}: {pulled.stderr}")


def _make_images() -> None:
    """Make what the Dockerfiles start from, unless an earlier run has."""
    have = set(docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())
    stand_ins = {REDIS_IMAGE: REDIS_DOCKERFILE, PROMETHEUS_IMAGE: PROMETHEUS_DOCKERFILE}
    with ThreadPoolExecutor() as pool:
        lacks_wheels = f"{BUILD_IMAGE}:latest" not in have
        downloaded = pool.submit(_download_wheels) if lacks_wheels else None
        if PYTHON_IMAGE not in have:
            _import_python()
        _try_a_container()
        building = [
            pool.submit(docker, "build", "--tag", tag, "-", stdin=lines)
            for tag, lines in stand_ins.items()
            if tag not in have
        ]
        if downloaded is not None and (wheels := downloaded.result()) is not None:
            docker("build", "--tag", BUILD_IMAGE, wheels)
            shutil.rmtree(wheels)
        for build in building:
            build.result()


def _try_a_container() -> None:
    """Skip, as where no engine starts, if containers cannot run or not reach the package index."""
    asks = ["pip", "download", "--quiet", "--no-deps", "--dest", "/tmp", "packaging"]
    for command in (["true"], asks):
        tried = subprocess.run(
            [DOCKER, "run", "--rm", PYTHON_IMAGE, *command], capture_output=True, text=True
        )
        if tried.returncode != 0:
            pytest.skip(f"an engine starts here, no container runs {command}: {tried.stderr}")


def _import_python() -> None:
    archive, hook = STATE / "base.tar", STATE / "hook.sh"
    hook.write_text(f"#!/bin/sh\nset -e\n{BASE_HOOK}")
    hook.chmod(0o755)
    # Merged from the start: the package that would do it later needs all of Perl.
    packages = "usr-is-merged,ca-certificates,python3,python3-venv,python3-pip,netbase,tzdata"
    merged = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=apt", merged,
            "--dpkgopt=force-unsafe-io", '--aptopt=APT::Install-Recommends "false"', *excluded,
            f"--include={packages}",
            f"--customize-hook={hook}", "bookworm", archive,
        ],
        check=True,
    )  # fmt: skip
    changes = [
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8",
        f"ENV PIP_CERT={CA_FILE} SSL_CERT_FILE={CA_FILE} REQUESTS_CA_BUNDLE={CA_FILE}",
        'CMD ["python3"]',
    ]
    options = [option for change in changes for option in ("--change", change)]
    docker("import", *options, archive, PYTHON_IMAGE)
    archive.unlink()


def _download_wheels() -> Path | None:
    """Fetch the torch for CPUs for the build stage, if pip here knows where to find it."""
    wheels = STATE / "wheels"
    pinned = (ROOT / "constraints.txt").read_text().split("\ntorch==")[1].split()[0]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels,
         f"torch=={pinned}+cpu"]
    )  # fmt: skip
    if done.returncode != 0:
        return None
    (wheels / "Dockerfile").write_text(f"FROM {PYTHON_IMAGE}\nCOPY *.whl /wheels/\n")
    return wheels
