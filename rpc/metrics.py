"""Metrics in Prometheus' form, from counts that our processes keep as plain numbers.

Nothing is computed before somebody scrapes; then the counts are read on the event loop that owns
them, and turned into text in the exporter's own thread.
"""

import asyncio
import importlib.metadata
import itertools
import logging
import platform
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

logger = logging.getLogger(__name__)

PREFIX = "lookahead_"
# A loop that is busy for longer than this fails the scrape, as a process that hangs should.
LOOP_TIMEOUT_S = 5.0

Collect = Callable[[], Iterable[Metric]]


@dataclass(frozen=True, slots=True)
class Page:
    """A scrape's answer."""

    content_type: str
    body: bytes


class LoopCollector(Collector):
    """Calls `collect` on the event loop on which this was made, from whatever thread."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect
        self._loop = asyncio.get_running_loop()

    def collect(self) -> list[Metric]:
        """Return the families; TimeoutError when the loop does not get to it."""
        try:
            is_own = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_own = False
        if is_own:
            return list(self._collect())
        found = asyncio.run_coroutine_threadsafe(self._on_loop(), self._loop)
        return found.result(LOOP_TIMEOUT_S)

    async def _on_loop(self) -> list[Metric]:
        return list(self._collect())


class _BuildInfo(Collector):
    """Which program this is."""

    def __init__(self, service: str) -> None:
        self._labels = {
            "service": service,
            "version": importlib.metadata.version("lookahead-serving"),
            "python": platform.python_version(),
        }

    def collect(self) -> list[Metric]:
        info = GaugeMetricFamily(
            PREFIX + "build_info", "Version of this process; always 1.", labels=list(self._labels)
        )
        info.add_metric(list(self._labels.values()), 1)
        return [info]


class _Tasks(Collector):
    """What the event loop has to do, the one where this was made, or else where it is scraped."""

    def __init__(self) -> None:
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def collect(self) -> list[Metric]:
        count = len(asyncio.all_tasks(self._loop))
        return [
            gauge(
                "event_loop_tasks",
                "Tasks on the process's event loop; a number that only rises is a leak.",
                count,
            )
        ]


def new_registry(service: str) -> CollectorRegistry:
    """Return a registry with the metrics that every process has: its own and its version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_BuildInfo(service))
    registry.register(_Tasks())
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> Page:
    """Answer a scrape in the format that its Accept header asks for."""
    encode, content_type = choose_encoder(accept)
    return Page(content_type, encode(registry))


@asynccontextmanager
async def exporting(listen: str, registry: CollectorRegistry) -> AsyncIterator[int | None]:
    """Answer scrapes at `listen` (host:port; empty: not at all) meanwhile; yield the port.

    OSError where the address is taken or makes no sense.
    """
    if not listen:
        yield None
        return
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise OSError(f"metrics_listen: {listen!r} is not host:port")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise OSError(f"cannot serve metrics on {listen!r}: {error}") from error
    logger.info("exporting_metrics address=%s port=%d", listen, server.server_port)
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


def gauge(name: str, help_text: str, value: float) -> Metric:
    """What may rise and fall."""
    return GaugeMetricFamily(PREFIX + name, help_text, value=value)


def counter(name: str, help_text: str, value: float) -> Metric:
    """What only rises; the name is written without `_total`."""
    return CounterMetricFamily(PREFIX + name, help_text, value=value)


def labelled_counter(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter for each value of one label."""
    family = CounterMetricFamily(PREFIX + name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def labelled_gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each value of one label."""
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def histogram(name: str, help_text: str, counted: "Histogram") -> Metric:
    """A histogram's cumulative counts."""
    bounds = [*map(floatToGoString, counted.bounds), "+Inf"]
    cumulative = itertools.accumulate(list(counted.counts))
    buckets = [(bound, float(count)) for bound, count in zip(bounds, cumulative, strict=True)]
    return HistogramMetricFamily(PREFIX + name, help_text, buckets, counted.total)


# Seconds of a whole request: from a short prompt on a GPU to a long answer on a CPU.
REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
# Seconds of a token or of a step.
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
# Seconds of a call to a drafter or of one look-up there.
LOOKUP_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1)


class Histogram:
    """Counts of values at most each bound, and above the last; one thread writes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise strictly."""
        self.bounds = tuple(bounds)
        assert all(low < high for low, high in itertools.pairwise(bounds)), bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)
