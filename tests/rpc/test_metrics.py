"""The exporter: what a process counts is what a scrape reads."""

import asyncio
import threading
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rpc import metrics
from rpc.metrics import Histogram, LoopCollector, exporting, new_registry, render


@given(st.lists(st.floats(0, 10)), st.sets(st.floats(0, 10), min_size=1))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float], edges: set[float]):
    histogram = Histogram(sorted(edges))
    for value in values:
        histogram.observe(value)
    samples = metrics.histogram("h", "A help.", histogram).samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name == "lookahead_h_bucket"}
    for bound, count in buckets.items():
        assert count == sum(value <= float(bound) for value in values)
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


async def _scrape(port: int, accept: str = "") -> tuple[str, str]:
    def fetch() -> tuple[str, str]:
        url = f"http://127.0.0.1:{port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.headers["Content-Type"], response.read().decode()

    return await asyncio.to_thread(fetch)


async def test_a_scrape_reads_the_process_its_version_and_what_was_registered():
    registry = new_registry("tester")
    registry.register(LoopCollector(lambda: [metrics.counter("eggs", "Eggs laid.", 3)]))
    async with exporting("127.0.0.1:0", registry) as port:
        assert port is not None
        _, text = await _scrape(port)
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["lookahead_eggs_total"].value == 3
    assert samples["lookahead_build_info"].labels["service"] == "tester"
    assert samples["process_resident_memory_bytes"].value > 0


async def test_a_scrape_may_ask_for_openmetrics():
    async with exporting("127.0.0.1:0", new_registry("tester")) as port:
        assert port is not None
        content_type, text = await _scrape(port, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_counts_are_read_on_the_loop_that_owns_them():
    threads: list[int] = []

    def collect() -> list[metrics.Metric]:
        threads.append(threading.get_ident())
        return []

    registry = new_registry("tester")
    registry.register(LoopCollector(collect))
    await asyncio.to_thread(render, registry)
    render(registry)  # from the loop itself, where waiting for it would never end
    assert threads == [threading.get_ident()] * 2


async def test_a_process_that_hangs_fails_its_scrape(monkeypatch):
    monkeypatch.setattr(metrics, "LOOP_TIMEOUT_S", 0.05)
    registry = new_registry("tester")
    registry.register(LoopCollector(list))
    async with exporting("127.0.0.1:0", registry) as port:
        # Asked by a thread, waited for without giving the loop a turn.
        failed = threading.Event()

        def fetch() -> None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
            except urllib.error.HTTPError as error:
                assert error.code == 500
                error.close()
                failed.set()

        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
    assert failed.is_set()


async def test_an_address_that_is_taken_or_makes_no_sense_is_named():
    registry = new_registry("tester")
    async with exporting("127.0.0.1:0", registry) as port:
        with pytest.raises(OSError, match=f"cannot serve metrics on '127.0.0.1:{port}'"):
            async with exporting(f"127.0.0.1:{port}", registry):
                pass
    for listen in ("9101", "127.0.0.1:", "127.0.0.1:66000", "127.0.0.1:x"):
        with pytest.raises(OSError, match="is not host:port"):
            async with exporting(listen, registry):
                pass


async def test_no_address_means_no_exporter():
    async with exporting("", new_registry("tester")) as port:
        assert port is None
