"""Maps exceptions to google.rpc.Status, by one table."""

from collections.abc import Callable, Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from cache_sidecar.core import errors

DOMAIN = "cache-sidecar.io"
DETAILS_KEY = "grpc-status-details-bin"

# The trailers contain the message twice, percent-encoded and in base64, and clients accept 8 KiB. These bounds, in bytes, are
# enough for an id of 128 characters in any alphabet.
MAX_MESSAGE = 640
MAX_VALUE = 512
MAX_VIOLATIONS = 2_500

Code = code_pb2.Code
_E = type[Exception]


def of(error: Exception) -> status_pb2.Status:
    """Returns the status of an error raised on purpose; INTERNAL, without the error's text, for any other."""
    for kind, describe in TABLE.items():
        if isinstance(error, kind):
            return describe(error)
    return _status(Code.INTERNAL, "internal error: this is a defect of the sidecar", "INTERNAL")


def _status(code: int, message: str, reason: str, *more: Message, **metadata: str) -> status_pb2.Status:
    values = {key: _truncate(value, MAX_VALUE) for key, value in metadata.items()}
    details = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=values), *more]
    return status_pb2.Status(code=code, message=_truncate(message, MAX_MESSAGE), details=map(pack, details))


def _truncate(text: str, size: int) -> str:
    """Truncates text to a number of bytes, at a character boundary."""
    data = text.encode()
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "..."


def pack(detail: Message) -> Any:
    """Returns a message as an Any."""
    # Twice as fast as Any.Pack, which matters because most calls of a flash sale are refused.
    return Any(type_url=f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", value=detail.SerializeToString())


def _retry(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return RetryInfo(retry_delay=delay)


def _invalid(error: errors.InvalidRequest) -> status_pb2.Status:
    return _status(Code.INVALID_ARGUMENT, str(error), "INVALID_REQUEST", _bad_request(error.violations))


def _bad_request(violations: Mapping[str, str]) -> BadRequest:
    """Returns as many violations as fit."""
    bad = BadRequest()
    room = MAX_VIOLATIONS
    for field, text in violations.items():
        violation = BadRequest.FieldViolation(field=_truncate(field, MAX_VALUE), description=_truncate(text, MAX_VALUE))
        room -= violation.ByteSize()
        if room < 0:
            break
        bad.field_violations.append(violation)
    return bad


def _tier(error: errors.TierFailed) -> status_pb2.Status:
    tier = error.tier.value
    if error.failure in {errors.Failure.BUSY, errors.Failure.CONFLICT}:
        message = f"{tier} is busy: {error.failure.value}"
        return _status(Code.RESOURCE_EXHAUSTED, message, "TIER_BUSY", _retry(errors.with_jitter(errors.RETRY_AFTER)), tier=tier)
    message = f"{tier} is unavailable: {error.failure.value}"
    return _status(Code.UNAVAILABLE, message, "TIER_UNAVAILABLE", _retry(1.0), tier=tier)


# The first matching row is used.
TABLE: dict[_E, Callable[..., status_pb2.Status]] = {
    errors.Unauthenticated: lambda e: _status(Code.UNAUTHENTICATED, str(e), "INVALID_TOKEN"),
    errors.InvalidCertificate: lambda e: _status(Code.UNAUTHENTICATED, str(e), "INVALID_CERTIFICATE"),
    errors.ClientNotAllowed: lambda e: _status(Code.PERMISSION_DENIED, str(e), "CLIENT_NOT_ALLOWED", client=e.names),
    errors.RoleMissing: lambda e: _status(Code.PERMISSION_DENIED, str(e), "ROLE_MISSING", role=e.role, has=e.has),
    errors.AuditFailed: lambda e: _status(Code.INTERNAL, str(e), "AUDIT_FAILED"),
    errors.InvalidRequest: _invalid,
    errors.NotFound: lambda e: _status(Code.NOT_FOUND, str(e), "NOT_FOUND", resource=e.resource, id=e.id),
    errors.DataLoss: lambda e: _status(Code.DATA_LOSS, str(e), "UNREADABLE_ROW", resource=e.resource, id=e.id),
    errors.AlreadyExists: lambda e: _status(Code.ALREADY_EXISTS, str(e), "ALREADY_EXISTS", resource=e.resource, id=e.id),
    errors.EtagMismatch: lambda e: _status(
        Code.ABORTED, str(e), "ETAG_MISMATCH", *e.details, resource=e.resource, id=e.id, etag=e.current
    ),
    errors.LimitReached: lambda e: _status(Code.FAILED_PRECONDITION, str(e), "LIMIT_REACHED", what=e.what, limit=str(e.limit)),
    # Not RESOURCE_EXHAUSTED, as gRPC itself uses: that means overload here, and is worth a retry.
    errors.ReplyTooLarge: lambda e: _status(
        Code.FAILED_PRECONDITION, str(e), "REPLY_TOO_LARGE", size=str(e.size), limit=str(e.limit)
    ),
    errors.RevocationPending: lambda e: _status(Code.UNAVAILABLE, str(e), "REVOCATION_PENDING", _retry(1.0)),
    errors.RequestIdReused: lambda e: _status(
        Code.INVALID_ARGUMENT,
        str(e),
        "REQUEST_ID_REUSED",
        _bad_request({"request_id": str(e)}),
    ),
    errors.ChangesExpired: lambda e: _status(Code.OUT_OF_RANGE, str(e), "CHANGES_EXPIRED"),
    errors.WatchTooSlow: lambda e: _status(Code.ABORTED, str(e), "WATCH_TOO_SLOW"),
    errors.OutOfStock: lambda e: _status(
        Code.FAILED_PRECONDITION, str(e), "OUT_OF_STOCK", product_id=e.product_id, available=str(e.available)
    ),
    errors.ReservationEnded: lambda e: _status(
        Code.FAILED_PRECONDITION, str(e), "RESERVATION_ENDED", reservation_id=e.reservation_id, state=e.state
    ),
    errors.BucketsInUse: lambda e: _status(Code.FAILED_PRECONDITION, str(e), "BUCKETS_IN_USE", product_id=e.product_id),
    errors.ListsMissing: lambda e: _status(
        Code.OUT_OF_RANGE, str(e), "LISTS_MISSING", batch_id=e.batch_id, next_list=str(e.stored)
    ),
    errors.BatchCommitted: lambda e: _status(Code.FAILED_PRECONDITION, str(e), "BATCH_COMMITTED", batch_id=e.batch_id),
    errors.ReadOnly: lambda e: _status(Code.FAILED_PRECONDITION, str(e), "READ_ONLY"),
    errors.Overloaded: lambda e: _status(Code.RESOURCE_EXHAUSTED, str(e), "OVERLOADED", _retry(e.retry_after)),
    errors.EventBacklogFull: lambda e: _status(Code.RESOURCE_EXHAUSTED, str(e), "EVENT_BACKLOG_FULL", _retry(e.retry_after)),
    errors.StreamIdle: lambda e: _status(Code.DEADLINE_EXCEEDED, str(e), "STREAM_IDLE"),
    errors.DeadlineExceeded: lambda e: _status(Code.DEADLINE_EXCEEDED, str(e), "DEADLINE_EXCEEDED"),
    errors.Draining: lambda e: _status(Code.UNAVAILABLE, str(e), "DRAINING", _retry(0.1)),
    errors.TierFailed: _tier,
}


def reason_of(status: status_pb2.Status) -> str:
    """Returns the reason in a status that this table made."""
    return str(ErrorInfo.FromString(status.details[0].value).reason)


def grpc_code(status: status_pb2.Status) -> grpc.StatusCode:
    """Returns the grpc.StatusCode of a status."""
    return _CODES[status.code]


_CODES = {code.value[0]: code for code in grpc.StatusCode}
