"""What every request passes first: its id, its key, the limit of requests; and its line in the log.

Nothing of a request's or an answer's text is ever logged.
"""

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookahead.gateway.auth import ApiKeys
from lookahead.gateway.errors import ApiError
from lookahead.gateway.messages.errors import body_for
from lookahead.gateway.metrics import GatewayMetrics
from rpc.errors import RETRY_AFTER_S
from rpc.tracing import Tracer

logger = logging.getLogger(__name__)

TRACED = "/v1/"
OPEN_PATHS = {"/health", "/ready"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
GONE = 499  # what logs call a request whose client left before its answer began


class Middleware:
    """Wraps the routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        metrics: GatewayMetrics,
        max_requests: int,
        tracer: Tracer | None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._max_requests = max_requests
        self._tracer = tracer
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = AccessRecord(scope, send, self._metrics)
        self._num_requests += 1
        try:
            self._admit(scope)
            with self._traced(scope, visit):
                await self._app(scope, receive, visit.send)
        except ApiError as error:
            body = body_for(scope["path"], error)
            response = JSONResponse(body, error.status, _challenged(error, scope))
            await response(scope, receive, visit.send)
        finally:
            self._num_requests -= 1
            visit.end()

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

    def _admit(self, scope: Scope) -> None:
        """Let a request in, with the namespace of its key."""
        if scope["path"] in OPEN_PATHS:
            return
        scope["state"]["namespace"] = self._keys.namespace(Headers(scope=scope))
        if self._num_requests > self._max_requests:
            message = f"this gateway answers at most {self._max_requests} requests at once"
            kind, code = "rate_limit_error", "overloaded"
            raise ApiError(429, kind, message, code=code, retry_after_s=RETRY_AFTER_S)


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
