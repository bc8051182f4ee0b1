"""The stack under attack: the processes of `lookahead serve`, started again when they die."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.chaos.model import save_model
from bench.topologies.server import free_port, wait_until
from lookahead.gateway.probe import is_ready
from lookahead.stack.stack import Stack, StackConfig, running
from lookahead.top.scrape import Reading, ScrapeError, scrape
from rpc.health import is_serving

POLITE, HOSTILE = "polite-key", "hostile-key"
KEYS = {POLITE: "polite", HOSTILE: "hostile"}
SETTINGS = {
    "LOOKAHEAD_GATEWAY_KEYS": json.dumps(KEYS),
    "LOOKAHEAD_VERIFIER_THREADS": "1",  # what attacks runs on the same cores
    # Small, so that what may be filled is filled soon, and what grows on is a leak.
    "LOOKAHEAD_VERIFIER_KV_MEMORY": "8MiB",
    "LOOKAHEAD_DRAFTER_MAX_NAMESPACE_BYTES": str(1 << 20),
    "LOOKAHEAD_DRAFTER_MAX_OUTBOX_BYTES": str(1 << 20),
}
LOOK_EVERY_S = 0.1
BACK_S = 60.0
QUIET_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running stack, and what can be seen and done from outside."""

    stack: Stack
    told: list[str] = field(default_factory=list)  # by the supervisor

    @property
    def http(self) -> str:
        """The gateway's host:port."""
        return self.stack.config.gateway_address

    @property
    def grpc(self) -> str:
        """The verifier's address."""
        return self.stack.config.verifier_address

    @property
    def drafter(self) -> str:
        """The drafter's address."""
        return self.stack.config.drafter_address

    def process(self, name: str) -> psutil.Process:
        """A process by the stack's name for it; of Redis the server itself."""
        process = psutil.Process(self.stack.children[name].pid)
        return process.children(recursive=True)[0] if name == "redis" else process

    def resident_mb(self, name: str) -> float:
        """Memory of a process."""
        return float(self.process(name).memory_info().rss) / 1e6

    def reading(self, name: str) -> Reading:
        """The metrics of a process."""
        config = self.stack.config
        addresses = {
            "verifier": config.verifier_metrics,
            "drafter": config.drafter_metrics,
            "gateway": config.gateway_address,
        }
        return scrape(addresses[name], key=POLITE if name == "gateway" else None)

    def log_lines(self, name: str) -> int:
        """How many lines a process has logged."""
        with self.stack.children[name].log_path.open("rb") as log:
            return sum(1 for _ in log)

    def kill(self, name: str) -> None:
        """End a process at once, and wait until its successor serves."""
        child = self.stack.children[name]
        self.process(name).send_signal(signal.SIGKILL)
        wait_until(lambda: self.stack.children[name].pid != child.pid, BACK_S)
        self.wait_for(name)

    def freeze(self, name: str, seconds: float) -> None:
        """Stop a process for a while; it goes on where it was."""
        process = self.process(name)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def wait_for(self, name: str) -> None:
        """Wait until a process serves."""
        serves: dict[str, Callable[[], bool]] = {
            "verifier": lambda: is_serving(self.grpc),
            "drafter": lambda: is_serving(self.drafter),
            "gateway": lambda: is_ready(self.http),
            "redis": lambda: self.stack.children["redis"].status is None,
        }
        wait_until(serves[name], BACK_S, step_s=0.05)

    def wait_until_idle(self) -> None:
        """Wait until nothing is answered any more."""

        def is_idle() -> bool:
            try:
                verifier, gateway = self.reading("verifier"), self.reading("gateway")
            except ScrapeError:
                return False  # there is so much to do that it answers late
            busy = verifier.value("requests_running") + verifier.value("requests_waiting")
            return busy + gateway.value("gateway_requests_running") <= 1  # the scrape itself

        wait_until(is_idle, QUIET_S, step_s=0.05)


@contextmanager
def target(settings: Mapping[str, str] | None = None, *, embeds: bool = True) -> Iterator[Target]:
    """Run a stack with a small model and two API keys; `settings` by environment variable."""
    with TemporaryDirectory(prefix="la-") as directory:
        folder = Path(directory)
        yield from _run(_config(folder, {**SETTINGS, **(settings or {})}, embeds=embeds))


def _config(folder: Path, settings: Mapping[str, str], *, embeds: bool) -> StackConfig:
    return StackConfig(
        model=save_model(folder / "model"),
        directory=folder,
        redis_dir=folder / "redis",
        verifier_address=f"unix:{folder}/v.sock",
        drafter_address=f"unix:{folder}/d.sock",
        gateway_address=f"127.0.0.1:{free_port()}",
        verifier_metrics=f"127.0.0.1:{free_port()}",
        drafter_metrics=f"127.0.0.1:{free_port()}",
        embeds=embeds,
        environ={**os.environ, **settings},
    )


def _run(config: StackConfig) -> Iterator[Target]:
    with running(config) as stack:
        found, is_over = Target(stack), threading.Event()
        supervisor = stack.supervisor(found.told.append)

        def watch() -> None:
            while not is_over.wait(LOOK_EVERY_S):
                supervisor.look()

        watching = threading.Thread(target=watch, name="supervisor")
        watching.start()
        try:
            yield found
        finally:
            is_over.set()
            watching.join()
