"""Counts of the requests that this process answers. No label holds text from clients."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from lookahead.gateway.choice import Choice
from lookahead.gateway.connections import Connections
from lookahead.gateway.verifiers import Verifiers
from rpc.metrics import PREFIX, REQUEST_S, Page, counter, gauge, new_registry, render

OURS = f"{PREFIX}gateway_"


class GatewayMetrics:
    """The numbers of one gateway."""

    def __init__(self, verifiers: Verifiers, connections: Connections) -> None:
        registry = new_registry("gateway")
        self._registry: CollectorRegistry = registry
        self._requests = Counter(
            f"{OURS}requests", "Requests answered.", ["path", "code"], registry=registry
        )
        self._running = Gauge(
            f"{OURS}requests_running", "Requests being answered.", registry=registry
        )
        self._duration = Histogram(
            f"{OURS}request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["path"],
            buckets=REQUEST_S,
            registry=registry,
        )
        self._first_token = Histogram(
            f"{OURS}time_to_first_token_seconds",
            "Time from a request's arrival to the first token of any choice.",
            buckets=REQUEST_S,
            registry=registry,
        )
        self._prompt_tokens = Counter(
            f"{OURS}prompt_tokens", "Prompt tokens of finished choices.", registry=registry
        )
        self._output_tokens = Counter(
            f"{OURS}generation_tokens", "Tokens of finished choices.", registry=registry
        )
        up = Gauge(
            f"{OURS}verifier_up",
            "1 if this verifier is connected, else 0.",
            ["address"],
            registry=registry,
        )
        registry.register(_ConnectionCollector(connections))
        for verifier in verifiers.all:
            up.labels(verifier.address).set_function(verifier.is_connected)

    def page(self, accept: str) -> Page:
        """Answer a scrape."""
        return render(self._registry, accept)

    def begin(self) -> float:
        """Count a request in; return its arrival for `end`."""
        self._running.inc()
        return time.monotonic()

    def end(self, arrival: float, scope: Scope, status: int) -> float:
        """Count a request out; return how long it took, in seconds."""
        self._running.dec()
        duration_s = time.monotonic() - arrival
        path = _route(scope)
        self._requests.labels(path, str(status)).inc()
        self._duration.labels(path).observe(duration_s)
        return duration_s

    def end_answer(self, arrival: float, choices: list[Choice]) -> None:
        """Count what an answer took, whether it was finished or not."""
        firsts = [choice.first_time for choice in choices if choice.first_time is not None]
        if firsts:
            self._first_token.observe(min(firsts) - arrival)
        for choice in choices:
            if choice.finished is not None:
                self._prompt_tokens.inc(choice.finished.usage.num_prompt_tokens)
                self._output_tokens.inc(choice.finished.usage.num_output_tokens)


class _ConnectionCollector(Collector):
    """The counts that the connections keep themselves."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        held, refused = len(self._connections), self._connections.num_refused
        yield gauge("gateway_connections", "Connections of clients.", held)
        yield counter(
            "gateway_connections_refused",
            "Connections refused or dropped because there were too many.",
            refused,
        )


def _route(scope: Scope) -> str:
    """Return the route's pattern, so that clients cannot create new label values."""
    route = scope.get("route")
    return getattr(route, "path", "other")
