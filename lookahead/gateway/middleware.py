"""What every request passes first: its id, its key, the limit of requests; and its line in the log.

Nothing of a request's or an answer's text is ever logged.
"""

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookahead.gateway.auth import namespace_of
from lookahead.gateway.errors import ApiError, stopping
from lookahead.gateway.messages.errors import body_for
from lookahead.gateway.metrics import GatewayMetrics
from rpc.errors import RETRY_AFTER_S
from rpc.keys import Keys
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

TRACED = "/v1/"
OPEN_PATHS = {"/health", "/ready"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
USUAL_WEIGHT = 0.05  # of the newest request in what a request usually takes
GONE = 499  # what logs call a request whose client left before its answer began


class Middleware:
    """Wraps the routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        metrics: GatewayMetrics,
        max_requests: int,
        tracer: Tracer | None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._max_requests = max_requests
        self._tracer = tracer
        self._running: Counter[str] = Counter()  # by the namespace of the key
        self._usual_s = 1.0  # what a request takes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = AccessRecord(scope, send, self._metrics)
        try:
            with self._admitted(scope), self._traced(scope, visit):
                await self._app(scope, receive, visit.send)
        except ApiError as error:
            await self._refuse(error, scope, receive, visit)
        except asyncio.CancelledError:
            if visit.status != GONE:
                raise
            await self._refuse(stopping(), scope, receive, visit)
        finally:
            visit.end()

    async def _refuse(
        self, error: ApiError, scope: Scope, receive: Receive, visit: "AccessRecord"
    ) -> None:
        body = body_for(scope["path"], error)
        response = JSONResponse(body, error.status, _challenged(error, scope))
        await response(scope, receive, visit.send)

    @contextmanager
    def _traced(self, scope: Scope, visit: "AccessRecord") -> Iterator[None]:
        """Let the verifier's part of a request go on with the trace that its client began."""
        if self._tracer is None or not scope["path"].startswith(TRACED):
            yield
            return
        span = self._tracer.serve(f"{scope['method']} {scope['path'][:100]}", Headers(scope=scope))
        try:
            with span.is_current():
                yield
        finally:
            span.end({"http.response.status_code": visit.status})

    @contextmanager
    def _admitted(self, scope: Scope) -> Iterator[None]:
        """Let a request in, with the namespace of its key. Questions about health always may."""
        if scope["path"] in OPEN_PATHS:
            yield
            return
        namespace = namespace_of(self._keys, Headers(scope=scope))
        scope["state"]["namespace"] = namespace
        num_free = self._max_requests - self._running.total()
        # A key leaves as many places as it takes, so that a flood meets its limit, not others.
        if num_free <= 0 or (namespace and self._running[namespace] > num_free):
            raise self._overloaded()
        self._running[namespace] += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self._usual_s += USUAL_WEIGHT * (time.monotonic() - start - self._usual_s)
            self._running[namespace] -= 1

    def _overloaded(self) -> ApiError:
        message = f"this gateway answers at most {self._max_requests} requests at once"
        return ApiError(
            429,
            "rate_limit_error",
            message,
            code="overloaded",
            retry_after_s=max(RETRY_AFTER_S, self._usual_s),
        )


class AccessRecord:
    """One request, for its line in the log and its share of the metrics."""

    def __init__(self, scope: Scope, send: Send, metrics: GatewayMetrics) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        self._metrics = metrics
        self._arrival = metrics.begin()
        state = scope.setdefault("state", {})
        state.update(request_id=self.request_id, arrival=self._arrival)
        self._scope = scope
        self._send = send
        self.status = GONE

    async def send(self, message: Message) -> None:
        """Pass a message on, the request's id in its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.request_id
        await self._send(message)

    def end(self) -> None:
        """Count the request and write its line."""
        duration_s = self._metrics.end(self._arrival, self._scope, self.status)
        logger.info(
            "request_end request_id=%s method=%s path=%s status=%d duration_ms=%.1f",
            self.request_id,
            self._scope["method"],
            # What a client sends must not break the line.
            repr(self._scope["path"][:100]),
            self.status,
            1000 * duration_s,
        )


def _challenged(error: ApiError, scope: Scope) -> dict[str, str]:
    """Return an error's headers; a browser that opens the page asks its user for the key."""
    if error.status != 401:
        return error.headers()
    is_page = scope["path"] == "/"
    return {"www-authenticate": 'Basic realm="API key as password"' if is_page else "Bearer"}
