"""The local stack: Redis, drafter, verifier and gateway on one machine, as in production.

A child that dies while the stack starts is an error, and the others are stopped. Later it is
started again, and that is said.
"""

import logging
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lookahead.gateway.probe import is_ready
from lookahead.stack.child import ChildProcess
from lookahead.stack.supervisor import Supervisor, Tell
from rpc.health import is_serving

logger = logging.getLogger(__name__)

POLL_S = 0.1
MIN_FREE_BYTES = 32 << 20
# In this order: answers end first, the verifier's last words go to the drafter, its own to Redis.
STOP_TIMEOUTS_S = {"gateway": 5.0, "verifier": 5.0, "drafter": 5.0, "redis": 5.0}
NO_REDIS = "none"
EMBEDDED = "embedded"

Report = Callable[[str, bool], None]  # name of a child, whether it is ready; called often


class StackError(RuntimeError):
    """The stack cannot start, or one of its processes died."""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """What to run and where. `redis` is a URL, NO_REDIS, or empty for a private server."""

    model: str
    directory: Path  # logs and short-lived files
    redis_dir: Path  # what the private server keeps
    verifier_address: str
    drafter_address: str
    redis: str = ""
    embeds: bool = False  # the verifier drafts from a replica of the memory, not from the drafter
    gateway_address: str = ""  # empty: no gateway
    verifier_metrics: str = ""  # where to answer scrapes; empty: nowhere
    drafter_metrics: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def apart(
        cls,
        model: str,
        directory: Path,
        *,
        environ: Mapping[str, str],
        redis: str = "",
        embeds: bool = False,
        gateway_address: str = "",
    ) -> "StackConfig":
        """Keep everything in a directory, on sockets there, so that it meets no other stack."""
        return cls(
            model=model,
            directory=directory,
            redis_dir=directory / "redis",
            verifier_address=f"unix:{directory}/v.sock",
            drafter_address=f"unix:{directory}/d.sock",
            redis=redis,
            embeds=embeds,
            gateway_address=gateway_address,
            environ=environ,
        )


@dataclass(frozen=True, slots=True)
class _Command:
    """How a process is started."""

    arguments: tuple[str, ...]
    environ: Mapping[str, str]


class Stack:
    """Starts, watches and stops the processes."""

    def __init__(self, config: StackConfig) -> None:
        self.config = config
        self.children: dict[str, ChildProcess] = {}
        self._commands: dict[str, _Command] = {}

    def start(self, report: Report = lambda name, is_ready: None) -> None:
        """Start everything and wait until it serves; `report` hears of each step."""
        self._check_addresses()
        _check_disk(self.config.directory)
        if not self.config.redis:
            _check_disk(self.config.redis_dir)
        redis_url = self._start_redis(report)  # at once, and replicas follow it
        self._start_verifier(redis_url)
        self._start_gateway()
        self._start_drafter(redis_url)
        waiting = self._addresses()
        while waiting:
            self.check()
            for name in waiting:
                report(name, False)
            for name in [name for name, address in waiting.items() if _answers(name, address)]:
                del waiting[name]
                report(name, True)
            time.sleep(POLL_S)

    def _check_addresses(self) -> None:
        addresses = self._addresses() | {
            "verifier's metrics": self.config.verifier_metrics,
            "drafter's metrics": self.config.drafter_metrics,
        }
        holders: dict[str, str] = {}
        for name, address in addresses.items():
            if not address:
                continue
            if address in holders:
                raise StackError(f"{name}: {address} is the {holders[address]}'s already")
            try:
                check_free(address)
            except StackError as error:
                raise StackError(f"{name}: {error}") from error
            holders[address] = name

    def check(self) -> None:
        """Raise StackError if a process has died."""
        for child in self.children.values():
            if child.status is not None:
                raise StackError(
                    f"the {child.name} process ended with status {child.status}; "
                    f"the end of {child.log_path}:\n{child.log_tail()}"
                )

    def watch(self, tell: Tell = logger.warning) -> None:
        """Return never; start processes again that die, and tell so."""
        supervisor = self.supervisor(tell)
        while True:
            supervisor.look()
            time.sleep(POLL_S)

    def supervisor(self, tell: Tell = logger.warning) -> Supervisor:
        """What starts processes again that die, each time that it looks."""
        return Supervisor(self.children, self._restart, tell)

    def stop(self) -> None:
        """Stop everything, in order; an interrupt meanwhile kills what is left."""
        try:
            for name, timeout_s in STOP_TIMEOUTS_S.items():
                if name in self.children:
                    self.children[name].stop(timeout_s)
        except KeyboardInterrupt:
            for child in self.children.values():
                child.kill()
        self.children.clear()

    def _addresses(self) -> dict[str, str]:
        """Say where each process that can be asked serves."""
        addresses = {
            "drafter": self.config.drafter_address,
            "verifier": self.config.verifier_address,
            "gateway": self.config.gateway_address,
        }
        return {name: address for name, address in addresses.items() if address}

    def _start_redis(self, report: Report) -> str:
        if self.config.redis:
            return "" if self.config.redis == NO_REDIS else self.config.redis
        report("redis", False)
        url_file = self.config.directory / "redis.url"
        url_file.unlink(missing_ok=True)
        self._run(
            "redis", "lookahead.stack.private_redis", str(self.config.redis_dir), str(url_file)
        )
        while not url_file.exists():
            self.check()
            time.sleep(POLL_S)
        report("redis", True)
        return url_file.read_text()

    def _start_drafter(self, redis_url: str) -> None:
        self._run(
            "drafter",
            "drafter",
            LOOKAHEAD_DRAFTER_LISTEN=self.config.drafter_address,
            LOOKAHEAD_DRAFTER_REDIS_URL=redis_url,
            LOOKAHEAD_DRAFTER_METRICS_LISTEN=self.config.drafter_metrics,
        )

    def _start_verifier(self, redis_url: str) -> None:
        drafter = self.config.drafter_address
        self._run(
            "verifier",
            "verifier",
            LOOKAHEAD_VERIFIER_LISTEN=self.config.verifier_address,
            LOOKAHEAD_VERIFIER_DRAFTER=EMBEDDED if self.config.embeds else drafter,
            LOOKAHEAD_DRAFTER_REDIS_URL=redis_url,
            LOOKAHEAD_VERIFIER_MODEL=self.config.model,
            LOOKAHEAD_VERIFIER_DRAIN_S="1",
            LOOKAHEAD_VERIFIER_METRICS_LISTEN=self.config.verifier_metrics,
        )

    def _start_gateway(self) -> None:
        if self.config.gateway_address:
            self._run(
                "gateway",
                "lookahead.gateway",
                LOOKAHEAD_GATEWAY_LISTEN=self.config.gateway_address,
                LOOKAHEAD_GATEWAY_VERIFIER=self.config.verifier_address,
                LOOKAHEAD_GATEWAY_DRAIN_S="1",
            )

    def _run(self, name: str, module: str, *arguments: str, **settings: str) -> None:
        # A setting of the user's own, say a device, stands unless the stack decides it.
        environ = {**self.config.environ, **settings}
        self._commands[name] = _Command((module, *arguments), environ)
        self._start(name)

    def _restart(self, name: str) -> None:
        self._start(name, keeps_log=True)

    def _start(self, name: str, *, keeps_log: bool = False) -> None:
        command = self._commands[name]
        self.children[name] = ChildProcess(
            name,
            command.arguments,
            log_path=self.config.directory / f"{name}.log",
            environ=command.environ,
            keeps_log=keeps_log,
        )
        logger.info("started name=%s pid=%d", name, self.children[name].pid)


@contextmanager
def running(config: StackConfig) -> Iterator[Stack]:
    """Run a stack for the length of a `with` block, however its start or the block ends."""
    stack = Stack(config)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def _answers(name: str, address: str) -> bool:
    return is_ready(address) if name == "gateway" else is_serving(address)


def _check_disk(directory: Path) -> None:
    """Make the directory; refuse a full disk, on which children die of all kinds of errors."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE_BYTES:
        raise StackError(
            f"the disk of {directory} is full: {free >> 20} MiB are free, "
            f"logs and memory need {MIN_FREE_BYTES >> 20}"
        )


def check_free(address: str) -> None:
    """Refuse an address in use: the server there would look like ours to the health check."""
    if address.startswith("unix:"):
        return  # inside our own directory
    host, _, port = address.rpartition(":")
    try:
        if not 0 < int(port) < 65536:
            raise ValueError("a port is 1..65535")
        family, *_, where = socket.getaddrinfo(host.strip("[]"), int(port))[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except (OSError, ValueError) as error:
        raise StackError(f"cannot listen on {address}: {error}") from error
