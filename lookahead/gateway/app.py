"""The application: routes behind the middleware; every failure has the form of its API."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from lookahead.gateway.concurrency import ClientGone
from lookahead.gateway.config import GatewayConfig
from lookahead.gateway.connections import Connections
from lookahead.gateway.errors import ApiError
from lookahead.gateway.messages.errors import body_for
from lookahead.gateway.metrics import GatewayMetrics
from lookahead.gateway.middleware import GONE, Middleware
from lookahead.gateway.routes import Routes
from lookahead.gateway.streams.sse import Abort
from lookahead.gateway.verifiers import Verifiers
from rpc.keys import Keys
from rpc.tracing import Tracer


def create_app(
    config: GatewayConfig,
    verifiers: Verifiers,
    connections: Connections,
    abort: Abort,
    tracer: Tracer | None = None,
) -> ASGIApp:
    """Return the application; it closes the verifiers when it stops."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await verifiers.close()

    metrics = GatewayMetrics(verifiers, connections)
    routes = Starlette(
        routes=Routes(config, verifiers, metrics, abort).table(),
        exception_handlers={
            ApiError: _refused,
            HTTPException: _no_route,
            ClientGone: _gone,
            ClientDisconnect: _gone,  # in the middle of its own request
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    keys = Keys(config.checked_keys, config.keys_file)
    app = Middleware(
        routes, keys=keys, metrics=metrics, max_requests=config.max_requests, tracer=tracer
    )
    return _with_cors(app, config.origins)


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins use the API; their browsers ask first, and without a key."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "x-lookahead-ignored", "retry-after"],
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(body_for(request.url.path, error), error.status, error.headers())


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message = f"{phrase}: {request.method} {request.url.path[:100]}"
    refusal = ApiError(error.status_code, "invalid_request_error", message, code="unknown_url")
    body = body_for(request.url.path, refusal)
    return JSONResponse(body, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _failed(request: Request, error: Exception) -> Response:
    message = "internal error; see the gateway's log"
    body = body_for(request.url.path, ApiError(500, "server_error", message))
    return JSONResponse(body, 500)
