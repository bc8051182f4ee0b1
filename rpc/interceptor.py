"""Turns exceptions of our handlers into gRPC statuses.

A client that goes away shows up as CancelledError, GeneratorExit or a failed write, depending on
where the handler waits; all three pass through untouched, so handlers release in `finally`.
"""

import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.rpc import code_pb2

from rpc.call_limits import HEALTH_PREFIX, REFLECTION_PREFIX, CallLimits
from rpc.decoding import checked, tolerant
from rpc.errors import ServiceError, Unavailable, to_status

logger = logging.getLogger(__name__)

UNCOUNTED = (HEALTH_PREFIX, REFLECTION_PREFIX)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = Callable[[Any, Context], Any]
Count: TypeAlias = Callable[[str, str], None]  # method, status


class StatusInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Wraps every handler; refuses new calls, health checks apart, once `draining` is set."""

    def __init__(self, max_calls: int | None = None) -> None:
        self.draining = False
        self._limits = CallLimits(max_calls)
        # By method and status; health checks and reflection are not counted.
        self.calls: Counter[tuple[str, str]] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # unknown method: grpc answers UNIMPLEMENTED
        name = handler_call_details.method
        count = self._ignore if name.startswith(UNCOUNTED) else self._count
        if self.draining and not name.startswith(HEALTH_PREFIX):
            count(name, "UNAVAILABLE")
            return _rewrap(handler, _refuse)
        return _rewrap(handler, lambda inner: self._translate(inner, name, count))

    def _translate(self, inner: Handler, name: str, count: Count) -> Handler:
        """Return `inner` with its exceptions turned into statuses, and its end counted."""

        async def call(request: Any, context: Context) -> Any:
            async with _ending(context, name, count):
                with self._limits.counted(name):
                    return await inner(checked(request), context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _ending(context, name, count):
                with self._limits.counted(name):
                    async with aclosing(inner(checked(request), context)) as responses:
                        async for response in responses:
                            yield response

        return stream if inspect.isasyncgenfunction(inner) else call

    def _count(self, name: str, code: str) -> None:
        self.calls[name.rpartition("/")[2], code] += 1

    def _ignore(self, name: str, code: str) -> None:
        """Take no note of a call."""


def _rewrap(
    handler: grpc.RpcMethodHandler, wrap: Callable[[Handler], Handler]
) -> grpc.RpcMethodHandler:
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = kinds[handler.request_streaming, handler.response_streaming]
    return make(
        wrap(getattr(handler, name)),
        request_deserializer=tolerant(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


@asynccontextmanager
async def _ending(context: Context, name: str, count: Count) -> AsyncIterator[None]:
    code = "CANCELLED"
    try:
        yield
        code = "OK"
    except Exception as error:
        code = _code(error, context)
        await _abort(context, error, name)
    finally:
        count(name, code)


def _code(error: Exception, context: Context) -> str:
    """Name the status that a call ends with."""
    if context.done():
        return "CANCELLED"
    number = error.code if isinstance(error, ServiceError) else ServiceError.code
    return str(code_pb2.Code.Name(number))


def _refuse(inner: Handler) -> Handler:
    """Return a handler of the same kind that answers UNAVAILABLE."""

    async def refuse(request: Any, context: Context) -> Any:
        await context.abort(*_status_fields(Unavailable("this server is shutting down")))

    return refuse


async def _abort(context: Context, error: Exception, name: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError) or context.done():
        raise error  # the call has its status already, or nobody is there to read one
    if isinstance(error, ServiceError):
        await context.abort(*_status_fields(error))
    logger.error("rpc_failed method=%s error=%s", name, type(error).__name__, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")
    raise AssertionError("abort always raises")


def _status_fields(error: ServiceError) -> tuple[grpc.StatusCode, str, Any]:
    status = to_status(error)
    return status.code, status.details, status.trailing_metadata
