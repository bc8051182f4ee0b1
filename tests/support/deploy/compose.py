"""The compose stack under test, and the faults that a test can do to it."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.topologies.server import free_port
from tests.support.deploy.engine import DOCKER, ROOT, docker
from tests.support.deploy.manifests import BIN

PROJECT = "lookahead-test"
WAIT_S = 900
UP = ("up", "--detach", "--no-build", "--no-recreate", "--wait", f"--wait-timeout={WAIT_S}")


class ComposeStack:
    """Runs `docker compose` as a project of its own, on ports of its own, with a model of ours."""

    def __init__(self, model: Path, *, certs: Path | None = None) -> None:
        """Serve `model`, a folder; with `certs`, another one, everything speaks TLS."""
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self.http_address = f"127.0.0.1:{free_port()}"
        self.prometheus_address = f"127.0.0.1:{free_port()}"
        self._files = ["--file=docker-compose.yml"]
        if certs is not None:
            self._files.append("--file=deploy/compose/tls.yml")
        self._environ = {
            "LOOKAHEAD_CERTS": str(certs),
            "LOOKAHEAD_REDIS_PASSWORD": "a-password-for-tests",
            "LOOKAHEAD_MODELS": str(model.parent),
            "LOOKAHEAD_MODEL": f"/models/{model.name}",
            "LOOKAHEAD_GRPC_PORT": self.grpc_address.partition(":")[2],
            "LOOKAHEAD_HTTP_PORT": self.http_address.partition(":")[2],
            "LOOKAHEAD_PROMETHEUS_PORT": self.prometheus_address.partition(":")[2],
        }

    def up(self, *, drafters: int = 2) -> None:
        """Start what does not run and wait until all of it is healthy."""
        self._run(*UP, f"--scale=drafter={drafters}")

    def up_only(self, service: str, profile: str) -> None:
        """Start one service of a profile and wait for it."""
        self._run(f"--profile={profile}", *UP, service)

    def down(self, *, forget: bool = False) -> None:
        """Remove all containers; with `forget` the volumes, too."""
        self._run("--profile=*", "down", "--timeout=40", *(["--volumes"] if forget else []))

    def stop(self, service: str) -> None:
        """Stop a service with the grace that it was given."""
        self._run("stop", service)

    def start(self, service: str) -> None:
        """Start a stopped service and wait until all of it is healthy."""
        self._run("start", service)
        wait_for(lambda: {health(name) for name in self.containers(service)} == {"healthy"}, WAIT_S)

    def containers(self, service: str) -> list[str]:
        """Return the names of a service's containers."""
        listed = self._run("ps", "--all", "--format", "{{.Name}}", service)
        return sorted(listed.split())

    def execute(self, service: str, *command: str) -> str:
        """Run a command inside a service's first container."""
        return self._run("exec", "--no-TTY", service, *command)

    def drafter_in_use(self) -> str:
        """Return the container of the drafter that the verifier says it is connected to."""
        (verifier,) = self.containers("verifier")
        log = logs(verifier)
        address = re.findall(r"drafter_connected address=([\d.]+):", log)[-1]
        for name in self.containers("drafter"):
            listed = docker(
                "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
                name,
            )  # fmt: skip
            if address in listed.split():
                return name
        raise AssertionError(f"no drafter has the address {address}")

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [BIN / "docker-compose", "--env-file", "/dev/null", "--project-name", PROJECT,
             *self._files, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **self._environ},
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr[-4000:]}{self._last_words()}"
        return done.stdout

    def _last_words(self) -> str:
        """Return the end of each container's log, for the message of a failure."""
        listed = docker(
            "ps", "--all", "--quiet", f"--filter=label=com.docker.compose.project={PROJECT}"
        )
        return "".join(f"\n--- {name}\n{logs(name)[-1500:]}" for name in listed.split())


def health(container: str) -> str:
    """Return what the engine says about a container's health."""
    return docker("inspect", "--format", "{{.State.Health.Status}}", container)


def logs(container: str) -> str:
    """Return a container's log, both streams."""
    done = subprocess.run(
        [DOCKER, "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def wait_for(true: Callable[[], bool], timeout_s: float) -> None:
    """Poll a condition; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not so after {timeout_s:g} s"
        time.sleep(0.2)


def build(target: str, *arguments: str) -> str:
    """Build one of our images; return its id."""
    dockerfile: Path = ROOT / "deploy/docker/Dockerfile"
    docker(
        "build", "--file", dockerfile, "--target", target, "--tag", f"lookahead-{target}",
        *arguments, ROOT,
    )  # fmt: skip
    return docker("image", "inspect", "--format", "{{.Id}}", f"lookahead-{target}")
