"""What a call can raise: one exception class per gRPC status that a caller acts on differently.

| exception          | status                        | what to do                              |
|--------------------|-------------------------------|-----------------------------------------|
| InvalidRequest     | INVALID_ARGUMENT              | change the fields named in `violations` |
| FailedPrecondition | FAILED_PRECONDITION           | ask another server or model             |
| Unauthenticated    | UNAUTHENTICATED               | send an API key that is known           |
| ResourceExhausted  | RESOURCE_EXHAUSTED            | try again after `retry_after_s`         |
| Unavailable        | UNAVAILABLE                   | start the server, or try again          |
| DeadlineExceeded   | DEADLINE_EXCEEDED             | allow more time                         |
| Cancelled          | CANCELLED                     | nothing: somebody wanted it             |
| ServerError        | INTERNAL and all others       | read the server's log                   |
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from rpc.errors import FieldViolation


class LookaheadError(Exception):
    """A call failed. `code` is the name of its gRPC status."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class InvalidRequest(LookaheadError):
    """The request can never succeed; `violations` name its fields."""


class FailedPrecondition(LookaheadError):
    """The request is sound, but not for this server as it stands."""


class Unauthenticated(LookaheadError):
    """The server asks for an API key, and knows no such one."""


class ResourceExhausted(LookaheadError):
    """A limit of the server is reached; try again after `retry_after_s`."""


class Unavailable(LookaheadError):
    """Nobody answers at this address, or the server takes no work now."""


class DeadlineExceeded(LookaheadError):
    """The time allowed is over."""


class Cancelled(LookaheadError):
    """The call was cancelled."""


class ServerError(LookaheadError):
    """The server failed; its log says how."""


CLASSES: dict[grpc.StatusCode, type[LookaheadError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def from_rpc_error(error: grpc.RpcError) -> LookaheadError:
    """Return our exception for a failed call, details unpacked."""
    code: grpc.StatusCode = error.code()
    status = _rich_status(error)
    return CLASSES.get(code, ServerError)(
        error.details() or code.name,
        code=code.name,
        violations=_violations(status),
        retry_after_s=_retry_after_s(status),
    )


@contextmanager
def translated() -> Iterator[None]:
    """Raise our exception for a call that fails inside the block."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


def invalid_field(field: str, problem: str) -> InvalidRequest:
    """Return the error for a field that is wrong before anything was sent."""
    violation = FieldViolation(field, problem)
    return InvalidRequest(f"{field}: {problem}", code="INVALID_ARGUMENT", violations=[violation])


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    try:
        return rpc_status.from_call(error) or status_pb2.Status()
    except ValueError:  # details that contradict the status: keep the status
        return status_pb2.Status()


def _violations(status: status_pb2.Status) -> list[FieldViolation]:
    bad_request = error_details_pb2.BadRequest()
    found = [d for d in status.details if d.Is(bad_request.DESCRIPTOR) and d.Unpack(bad_request)]
    if not found:
        return []
    return [FieldViolation(v.field, v.description) for v in bad_request.field_violations]


def _retry_after_s(status: status_pb2.Status) -> float | None:
    retry_info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(retry_info.DESCRIPTOR) and detail.Unpack(retry_info):
            return float(retry_info.retry_delay.ToMilliseconds()) / 1000
    return None
