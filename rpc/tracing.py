"""OpenTelemetry traces, where the extra `otel` is installed and a collector is named.

Off, we import nothing of OpenTelemetry, and a call costs one look into a dict. Spans carry counts
and times, never text.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import SpanKind

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# W3C Trace Context, in gRPC metadata and in HTTP headers alike.
HEADERS = ("traceparent", "tracestate")

Attributes: TypeAlias = Mapping[str, str | int | float | bool]


class Span:
    """One operation of this process; `end` sends it off."""

    def __init__(self, tracer: "Tracer", span: "OtelSpan") -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """What another process needs to go on with the trace."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def add_part(self, name: str, started: float, ended: float) -> None:
        """Add a child span that is over already; times are those of `time.perf_counter`."""
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(self._span)
        part = self._tracer.otel.start_span(name, within, start_time=self._tracer.unix_ns(started))
        part.end(self._tracer.unix_ns(ended))

    def end(self, attributes: Attributes, *, error: str = "") -> None:
        """Finish the span; `error` names the status of an operation that failed."""
        from opentelemetry.trace import Status, StatusCode

        for name, value in attributes.items():
            self._span.set_attribute(name, value)
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()

    @contextmanager
    def is_current(self) -> Iterator[None]:
        """Let calls made meanwhile by this task go on with this span."""
        from opentelemetry.trace import use_span

        with use_span(self._span, end_on_exit=False, record_exception=False):
            yield


class Tracer:
    """Starts the spans of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self.otel = provider.get_tracer("lookahead")
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    def serve(self, name: str, headers: Mapping[str, str]) -> Span:
        """Start the span of a request, under the one that its headers name, if they do."""
        from opentelemetry.trace import SpanKind

        return self._start(name, headers, SpanKind.SERVER)

    def follow(self, name: str, traceparent: str) -> Span:
        """Start a span of work that another process asked for."""
        from opentelemetry.trace import SpanKind

        return self._start(name, {"traceparent": traceparent}, SpanKind.CONSUMER)

    def stop(self) -> None:
        """Send what waits to be sent; blocks for as long as that takes."""
        self._provider.shutdown()

    def unix_ns(self, seconds: float) -> int:
        """Turn a time of `time.perf_counter` into one of the day."""
        return self._epoch_ns + int(seconds * 1e9)

    def _start(self, name: str, headers: Mapping[str, str], kind: "SpanKind") -> Span:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({h: headers.get(h, "") for h in HEADERS})
        return Span(self, self.otel.start_span(name, parent, kind=kind))


def start_tracing(service: str, environ: Mapping[str, str]) -> Tracer | None:
    """Return a tracer where the environment names a collector; it reads its settings there."""
    if not environ.get(ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("tracing_off reason=%s", "not installed: lookahead-serving[otel]")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"lookahead-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logger.info("tracing endpoint=%s", environ[ENDPOINT])
    return Tracer(provider)


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a call goes on with the caller's span, if there is one."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
