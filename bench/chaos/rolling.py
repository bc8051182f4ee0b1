"""Three verifiers behind a gateway, restarted one after the other: no request fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.chaos.model import save_model
from bench.chaos.target import POLITE, SETTINGS
from bench.chaos.witness import others, witness
from bench.serving.figures import Figure
from bench.topologies.server import free_port, wait_until
from lookahead.gateway.probe import is_ready
from lookahead.stack.child import ChildProcess
from rpc.health import is_serving

SECTION = "rolling restart of three verifiers"
NUM_VERIFIERS = 3
START_S, DRAIN_S = 90.0, 30.0
BETWEEN = 2  # answers


@dataclass(slots=True)
class Fleet:
    """The processes, each on a socket in one folder."""

    folder: Path
    model: str
    verifiers: list[ChildProcess]

    def address(self, index: int) -> str:
        """Where a verifier serves."""
        return f"unix:{self.folder}/v{index}.sock"

    def start(self, index: int) -> ChildProcess:
        """Start one; it serves later."""
        settings = {
            "LOOKAHEAD_VERIFIER_LISTEN": self.address(index),
            "LOOKAHEAD_VERIFIER_MODEL": self.model,
            "LOOKAHEAD_VERIFIER_DRAFTER": "embedded",
        }
        return self._child("verifier", f"v{index}", settings)

    def gateway(self, http: str) -> ChildProcess:
        """Start the gateway before all of them."""
        addresses = ",".join(self.address(index) for index in range(NUM_VERIFIERS))
        settings = {"LOOKAHEAD_GATEWAY_LISTEN": http, "LOOKAHEAD_GATEWAY_VERIFIER": addresses}
        return self._child("lookahead.gateway", "gateway", settings)

    def _child(self, module: str, name: str, settings: dict[str, str]) -> ChildProcess:
        environ = {**os.environ, **SETTINGS, **settings}
        log = self.folder / f"{name}.log"
        return ChildProcess(name, [module], log_path=log, environ=environ, keeps_log=True)

    def restart(self, index: int) -> None:
        """Tell one to end, start it again when it has, and wait until it serves."""
        self.verifiers[index].stop(DRAIN_S)
        self.verifiers[index] = self.start(index)
        wait_until(lambda: is_serving(self.address(index)), START_S, step_s=0.1)


def rolling(rounds: int = 1) -> list[Figure]:
    """Restart each of them in turn, while a client asks on."""
    http = f"127.0.0.1:{free_port()}"
    with _fleet(http) as fleet, witness(http, POLITE) as polite:
        polite.calm()
        start = polite.mark()
        for index in list(range(NUM_VERIFIERS)) * rounds:
            fleet.restart(index)
            polite.wait_for(BETWEEN, polite.mark())
        seen = polite.seen(start)
    return [
        Figure(SECTION, "restarts", NUM_VERIFIERS * rounds, ""),
        *others(SECTION, seen, polite.text),
    ]


@contextmanager
def _fleet(http: str) -> Iterator[Fleet]:
    with TemporaryDirectory(prefix="la-") as directory:
        folder = Path(directory)
        fleet = Fleet(folder, save_model(folder / "model"), [])
        gateway = fleet.gateway(http)
        try:
            fleet.verifiers = [fleet.start(index) for index in range(NUM_VERIFIERS)]
            addresses = [fleet.address(index) for index in range(NUM_VERIFIERS)]
            wait_until(lambda: all(map(is_serving, addresses)), START_S, step_s=0.1)
            wait_until(lambda: is_ready(http), START_S, step_s=0.1)
            yield fleet
        finally:
            for child in [gateway, *fleet.verifiers]:
                child.kill()
