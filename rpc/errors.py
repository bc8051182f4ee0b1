"""Our own exceptions and the gRPC statuses they become.

Services raise these; `rpc.interceptor` turns them into statuses with machine-readable details.

| exception            | status              | details                    |
|----------------------|---------------------|----------------------------|
| InvalidRequest       | INVALID_ARGUMENT    | BadRequest, field by field |
| Unauthenticated      | UNAUTHENTICATED     |                            |
| ResourceExhausted    | RESOURCE_EXHAUSTED  | RetryInfo                  |
| Unavailable          | UNAVAILABLE         | RetryInfo                  |
| anything else        | INTERNAL            |                            |
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

# Statuses travel in HTTP/2 metadata, which is small: a hostile request must not overflow it.
MAX_VIOLATIONS = 16
MAX_VALUE_CHARS = 100
RETRY_AFTER_S = 1.0  # what every caller that is turned away for a while is told to wait


class ServiceError(Exception):
    """A failure that the caller is told about."""

    code: ClassVar[int] = code_pb2.INTERNAL

    def details(self) -> list[Message]:
        """List what the status carries beside its message."""
        return []


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that a request got wrong."""

    field: str  # path, for example observe[2].token_ids[5]
    description: str


class InvalidRequest(ServiceError):
    """The request can never succeed as it stands."""

    code = code_pb2.INVALID_ARGUMENT

    def __init__(self, *violations: FieldViolation) -> None:
        self.violations = violations[:MAX_VIOLATIONS]
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def at(cls, field: str, problem: str, value: object = None) -> Self:
        """Blame one field, quoting the start of its value."""
        quoted = "" if value is None else f", got {repr(value)[:MAX_VALUE_CHARS]}"
        return cls(FieldViolation(field, problem + quoted))

    def details(self) -> list[Message]:
        bad_request = error_details_pb2.BadRequest()
        for violation in self.violations:
            bad_request.field_violations.add(
                field=violation.field, description=violation.description
            )
        return [bad_request]


class Unauthenticated(ServiceError):
    """The caller has no key that is known."""

    code = code_pb2.UNAUTHENTICATED


class RetryLater(ServiceError):
    """The same request may succeed after a while."""

    def __init__(self, message: str, *, retry_after_s: float = RETRY_AFTER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def details(self) -> list[Message]:
        delay = Duration()
        delay.FromMilliseconds(round(self.retry_after_s * 1000))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class ResourceExhausted(RetryLater):
    """A limit of this server is reached."""

    code = code_pb2.RESOURCE_EXHAUSTED


class Unavailable(RetryLater):
    """This server takes no work now."""

    code = code_pb2.UNAVAILABLE


def to_status(error: ServiceError) -> grpc.Status:
    """Return the status of `error`, details included."""
    status = status_pb2.Status(code=error.code, message=str(error))
    for detail in error.details():
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)
