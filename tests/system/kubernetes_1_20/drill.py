"""Rolling restarts and lost pods under load, on the cluster that cluster.sh brings up.

usage: cluster.sh run DIRECTORY python -m tests.system.kubernetes_1_20.drill DIRECTORY

Greedy requests go on through gRPC and HTTP while each event happens; every one must succeed with
the text of the first. What the memory held before Redis was lost must be there after. Prints a
Markdown table; exit status 1 if a request failed or changed.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lookahead import Client
from lookahead.client.drafter_client import DrafterClient

PROMPT = "The lighthouse keeper wrote in the log: the light was lit at dusk. Day two: the light was"
MAX_TOKENS = 16
NUM_CALLERS = 2  # of each kind
READY_TIMEOUT = "600s"


@dataclass
class Load:
    """Callers in threads, and what they got."""

    text: str
    callers: list[Callable[[], str]]
    num_ok: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    _is_over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for caller in self.callers:
            self._threads.append(threading.Thread(target=self._run, args=(caller,)))
            self._threads[-1].start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> tuple[int, list[str], float]:
        """Return what came since the last time: good answers, failures, the longest wait."""
        with self._lock:
            taken = self.num_ok, self.failures, self.longest_s
            self.num_ok, self.failures, self.longest_s = 0, [], 0.0
            return taken

    def _run(self, caller: Callable[[], str]) -> None:
        while not self._is_over.is_set():
            started = time.perf_counter()
            try:
                text = caller()
                failure = "" if text == self.text else f"another text: {text!r}"
            except Exception as error:  # whatever it is, it is a failed request
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                self.longest_s = max(self.longest_s, time.perf_counter() - started)
                if failure:
                    self.failures.append(failure)
                else:
                    self.num_ok += 1


class Cluster:
    """The namespace that the overlay fills."""

    def __init__(self, directory: Path) -> None:
        self._kubectl = ["kubectl", f"--kubeconfig={directory}/run/kubeconfig", "-n", "lookahead"]

    def run(self, *arguments: str) -> str:
        command = [*self._kubectl, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def address(self, service: str) -> str:
        return self.run("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    def wait(self, *targets: str) -> None:
        for target in targets:
            self.run("rollout", "status", target, f"--timeout={READY_TIMEOUT}")

    def restart(self, target: str) -> None:
        self.run("rollout", "restart", target)
        self.wait(target)

    def kill(self, name: str, target: str) -> None:
        selector = f"-l=app.kubernetes.io/name={name}"
        self.run("delete", "pod", selector, "--grace-period=0", "--force")
        self.wait(target)

    def lose_redis(self) -> None:
        self.run("delete", "pod", "redis-0")
        self.wait("statefulset/redis")


def http_caller(address: str) -> Callable[[], str]:
    """Ask the gateway on a new connection each time, as a load balancer's clients do."""
    body = {"prompt": PROMPT, "max_tokens": MAX_TOKENS, "temperature": 0}

    def call() -> str:
        request = urllib.request.Request(
            f"http://{address}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return str(json.load(reply)["choices"][0]["text"])

    return call


def grpc_caller(address: str) -> Callable[[], str]:
    """Ask the verifiers on one connection that is kept for the whole drill."""
    client = Client(f"{address}:50051")
    return lambda: client.generate(PROMPT, max_tokens=MAX_TOKENS, timeout_s=120).wait().text


def memory(address: str) -> int:
    """Return how many tokens the drafter holds."""
    with DrafterClient(f"{address}:50052") as drafter:
        return sum(namespace.num_tokens for namespace in drafter.namespaces())


def drill(cluster: Cluster) -> bool:
    """Run all events; return whether every request was answered as it should be."""
    cluster.wait("statefulset/redis", "deployment/drafter", "deployment/verifier")
    cluster.wait("deployment/gateway")
    verifier, gateway = cluster.address("verifier"), cluster.address("gateway")
    callers = [grpc_caller(verifier) for _ in range(NUM_CALLERS)]
    text = callers[0]()
    callers += [http_caller(gateway) for _ in range(NUM_CALLERS)]
    load = Load(text, callers)
    load.start()
    events: dict[str, Callable[[], None]] = {
        "none, for comparison": lambda: time.sleep(30),
        "rolling restart of the drafters": lambda: cluster.restart("deployment/drafter"),
        "rolling restart of the verifiers": lambda: cluster.restart("deployment/verifier"),
        "rolling restart of the gateways": lambda: cluster.restart("deployment/gateway"),
        "drafter pod killed": lambda: cluster.kill("drafter", "deployment/drafter"),
        "Redis pod deleted": cluster.lose_redis,
    }
    sys.stdout.write("| event | seconds | requests | failed | longest answer (s) |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|\n")
    is_good = True
    try:
        for name, event in events.items():
            started = time.perf_counter()
            event()
            time.sleep(5)  # requests that began in the event end in it
            num_ok, failures, longest_s = load.take()
            row = [name, f"{time.perf_counter() - started:.0f}", num_ok + len(failures)]
            row += [len(failures), f"{longest_s:.1f}"]
            sys.stdout.write(f"| {' | '.join(map(str, row))} |\n")
            for failure in failures[:5]:
                sys.stdout.write(f"\n    {failure}\n\n")
            sys.stdout.flush()
            is_good &= not failures
    finally:
        load.stop()
    return check_memory(cluster, callers[0]) and is_good


def check_memory(cluster: Cluster, ask: Callable[[], str]) -> bool:
    """Say whether a new drafter reads back from a new Redis all that the old one had learned."""
    ask()  # a drafter loads a namespace when it is first asked for it
    before = memory(cluster.address("drafter"))
    cluster.lose_redis()
    cluster.restart("deployment/drafter")
    after, deadline = 0, time.monotonic() + 30
    while after < before and time.monotonic() < deadline:
        ask()
        after = memory(cluster.address("drafter"))
    sys.stdout.write(f"\nTokens in the memory before and after: {before}, {after}.\n")
    return after >= before > 0


if __name__ == "__main__":
    sys.exit(0 if drill(Cluster(Path(sys.argv[1]))) else 1)
