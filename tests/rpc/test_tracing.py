"""Traces: one request, one trace from the caller's span to the drafter's, at a real collector."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookahead.gateway.connections import Connections
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.middleware import Middleware
from lookahead.gateway.verifiers import Verifiers
from protos import verifier_pb2 as pb
from rpc.keys import Keys
from rpc.tracing import Tracer, outgoing_metadata, start_tracing
from tests.support.servers.running_drafter import drafter
from tests.support.servers.running_verifier import TIMEOUT_S, drafting_from
from tests.support.waiting import eventually

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps every span it is sent."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.spans: dict[str, Any] = {}

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans |= {span.name: span for span in scope.spans}
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Listen for spans at an endpoint of its own; what a tracer sends must come before the end."""
    server = grpc.server(ThreadPoolExecutor(1))
    collector = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.start()
    yield collector
    server.stop(0).wait()


@pytest.fixture
def tracer(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    """Start a tracer that sends to the collector; the test stops it before it looks there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    tracer = start_tracing("tester", os.environ)
    assert tracer is not None
    return tracer


@pytest.mark.usefixtures("compiled_kernels")
async def test_a_request_is_one_trace_with_its_parts(tracer: Tracer, collector: Collector) -> None:
    async with drafter(tracer=tracer) as served, drafting_from(served.address) as verifier:
        assert verifier.service.backend is not None
        verifier.service.backend.tracer = tracer
        call = verifier.stub.Generate(
            pb.GenerateRequest(
                token_ids=pb.TokenIds(ids=[65, 66]),
                stopping=pb.Stopping(max_tokens=20, ignore_eos=True),
            ),
            metadata=[("traceparent", f"00-{TRACE}-{CALLER}-01")],
            timeout=TIMEOUT_S,
        )
        events = [event async for event in call]
        # The drafter's span ends when it hears that the sequence has.
        await eventually(lambda: served.sessions.stats().num_sequences == 0)
    await asyncio.to_thread(tracer.stop)
    spans = collector.spans
    assert set(spans) == {"Generate", "queue", "prefill", "decode", "draft"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    request = spans["Generate"]
    assert request.parent_span_id.hex() == CALLER
    for part in ("queue", "prefill", "decode", "draft"):
        assert spans[part].parent_span_id == request.span_id
        assert spans[part].start_time_unix_nano <= spans[part].end_time_unix_nano
    counted = {a.key: a.value for a in request.attributes}
    assert events[-1].finished.usage.num_output_tokens == 20
    assert counted["gen_ai.usage.output_tokens"].int_value == 20
    drafted = {a.key: a.value for a in spans["draft"].attributes}
    assert drafted["lookahead.drafts"].int_value > 0


async def test_the_gateway_goes_on_with_its_clients_trace(
    tracer: Tracer, collector: Collector
) -> None:
    handed_on: list[tuple[tuple[str, str], ...]] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        handed_on.append(outgoing_metadata())
        await Response("")(scope, receive, send)

    verifiers = Verifiers(("127.0.0.1:9",), connect_timeout_s=1.0, tls=None)
    metrics = GatewayMetrics(verifiers, Connections(limit=1, limit_per_address=1))
    front = Middleware(route, keys=Keys(dict), metrics=metrics, max_requests=1, tracer=tracer)
    transport = httpx.ASGITransport(front)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        traceparent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        await client.post("/v1/completions", headers=traceparent)
        await client.get("/health", headers=traceparent)
    ((name, value),) = handed_on[0]
    assert name == "traceparent" and TRACE in value and CALLER not in value
    assert handed_on[1] == ()
    await asyncio.to_thread(tracer.stop)
    assert [span.parent_span_id.hex() for span in collector.spans.values()] == [CALLER]


@pytest.mark.slow
def test_off_nothing_of_opentelemetry_is_imported() -> None:
    script = (
        "import sys\n"
        "from rpc.tracing import Tracer, outgoing_metadata, start_tracing\n"
        "assert start_tracing('tester', {}) is None and outgoing_metadata() == ()\n"
        "import rpc.server, rpc.metrics, lookahead.client.client\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
