"""Errors to statuses: one table, one translator.

The public message is the error's own text for errors that are the caller's or the operator's to mend,
and a fixed sentence for everything that was not raised on purpose; the log has the rest.
"""

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from pointsman.errors import (
    ArtifactError,
    BackendDownError,
    CatalogError,
    ConfigError,
    DeadlineError,
    ForbiddenError,
    InvalidRequestError,
    NoRouteError,
    OverloadedError,
    PointsmanError,
    PolicyError,
    PreconditionError,
    QuotaError,
    UnauthenticatedError,
    UnknownNameError,
    UnknownRequestError,
    for_callers,
)

DOMAIN = "pointsman"
# Errors travel as HTTP/2 metadata, which clients accept up to 8 KiB of.
_MAX_MESSAGE, _MAX_DETAIL, _MAX_VIOLATIONS = 1024, 160, 16
_SHORTEST_RETRY_S = 0.1
"""Whoever is told to come back at once does, and finds things as they were."""
INTERNAL_MESSAGE = "internal error; the server's log has it under this request id"

CODES: dict[type[PointsmanError], grpc.StatusCode] = {
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    PolicyError: grpc.StatusCode.PERMISSION_DENIED,
    UnknownNameError: grpc.StatusCode.NOT_FOUND,
    UnknownRequestError: grpc.StatusCode.NOT_FOUND,
    CatalogError: grpc.StatusCode.INVALID_ARGUMENT,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ArtifactError: grpc.StatusCode.FAILED_PRECONDITION,
    NoRouteError: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    BackendDownError: grpc.StatusCode.UNAVAILABLE,
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code of an error; INTERNAL for what is not in the table."""
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]


def status_of(error: BaseException) -> status_pb2.Status:
    """Return the rich status of an error, with the details that clients act on."""
    code = code_of(error)
    known = code is not grpc.StatusCode.INTERNAL
    status = status_pb2.Status(
        code=getattr(code_pb2, code.name),
        message=_cut(for_callers(error), _MAX_MESSAGE) if known else INTERNAL_MESSAGE,
    )
    for detail in _details(error) if known else ():
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: BaseException) -> Sequence[ProtobufMessage]:
    reason = type(error).__name__.removesuffix("Error")
    details: list[ProtobufMessage] = [error_details_pb2.ErrorInfo(reason=_upper_snake(reason), domain=DOMAIN)]
    if isinstance(error, OverloadedError | BackendDownError) and error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(max(error.retry_after_s, _SHORTEST_RETRY_S) * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequestError):
        details.append(_bad_request([(error.field, for_callers(error))]))
    if isinstance(error, CatalogError):
        details.append(_bad_request([(p.field, str(p)) for p in error.problems]))
    if isinstance(error, UnknownNameError):
        details.append(error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name))
    return details


def _bad_request(violations: Sequence[tuple[str, str]]) -> ProtobufMessage:
    fields = [
        error_details_pb2.BadRequest.FieldViolation(field=field, description=_cut(description, _MAX_DETAIL))
        for field, description in violations[:_MAX_VIOLATIONS]
    ]
    if len(violations) > _MAX_VIOLATIONS:
        more = f"and {len(violations) - _MAX_VIOLATIONS} more"
        fields.append(error_details_pb2.BadRequest.FieldViolation(description=more))
    request: ProtobufMessage = error_details_pb2.BadRequest(field_violations=fields)
    return request


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _upper_snake(name: str) -> str:
    return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()
