"""How each error reaches a caller: the one table, exception -> google.rpc.Status."""

from collections.abc import Callable

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from cache_sidecar import errors

DOMAIN = "cache-sidecar.io"
DETAILS_KEY = "grpc-status-details-bin"

Code = code_pb2.Code
_E = type[Exception]


def of(error: Exception) -> status_pb2.Status:
    """Returns the status of an error raised on purpose, or INTERNAL, without a word of its text, for any other."""
    for kind, describe in TABLE.items():
        if isinstance(error, kind):
            return describe(error)
    return _status(Code.INTERNAL, "internal error: this is a defect of the sidecar", "INTERNAL")


def _status(code: int, message: str, reason: str, *more: Message, **metadata: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    details: list[Message] = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata), *more]
    for detail in details:
        status.details.append(packed(detail))
    return status


def packed(detail: Message) -> Any:
    """Returns a message as an Any."""
    wrapper = Any()
    wrapper.Pack(detail)
    return wrapper


def _retry(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return RetryInfo(retry_delay=delay)


def _invalid(error: errors.InvalidRequest) -> status_pb2.Status:
    violations = [BadRequest.FieldViolation(field=field, description=text) for field, text in error.violations.items()]
    return _status(Code.INVALID_ARGUMENT, str(error), "INVALID_REQUEST", BadRequest(field_violations=violations))


def _tier(error: errors.TierFailed) -> status_pb2.Status:
    tier = error.tier.value
    if error.failure is errors.Failure.BUSY:
        message = f"{tier} is busy: {error.failure.value}"
        return _status(Code.RESOURCE_EXHAUSTED, message, "TIER_BUSY", _retry(0.1), tier=tier)
    message = f"{tier} cannot be used: {error.failure.value}"
    return _status(Code.UNAVAILABLE, message, "TIER_UNAVAILABLE", _retry(1.0), tier=tier)


# The first row that fits counts.
TABLE: dict[_E, Callable[..., status_pb2.Status]] = {
    errors.InvalidRequest: _invalid,
    errors.NotFound: lambda e: _status(Code.NOT_FOUND, str(e), "NOT_FOUND", resource=e.resource, id=e.id),
    errors.AlreadyExists: lambda e: _status(Code.ALREADY_EXISTS, str(e), "ALREADY_EXISTS", resource=e.resource, id=e.id),
    errors.EtagMismatch: lambda e: _status(Code.ABORTED, str(e), "ETAG_MISMATCH", resource=e.resource, id=e.id, etag=e.current),
    errors.RequestIdReused: lambda e: _status(
        Code.INVALID_ARGUMENT,
        str(e),
        "REQUEST_ID_REUSED",
        BadRequest(field_violations=[BadRequest.FieldViolation(field="request_id", description=str(e))]),
    ),
    errors.ChangesExpired: lambda e: _status(Code.OUT_OF_RANGE, str(e), "CHANGES_EXPIRED"),
    errors.WatchTooSlow: lambda e: _status(Code.ABORTED, str(e), "WATCH_TOO_SLOW"),
    errors.Overloaded: lambda e: _status(Code.RESOURCE_EXHAUSTED, str(e), "OVERLOADED", _retry(e.retry_after)),
    errors.Draining: lambda e: _status(Code.UNAVAILABLE, str(e), "DRAINING", _retry(0.1)),
    errors.TierFailed: _tier,
}


def grpc_code(status: status_pb2.Status) -> grpc.StatusCode:
    """Returns grpc's code of a status."""
    return _CODES[status.code]


_CODES = {code.value[0]: code for code in grpc.StatusCode}
