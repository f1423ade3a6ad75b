"""The errors of calls: a type for each reason that the sidecar gives, with the values of its details."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cache_sidecar_client.v1 import cart_pb2
from cache_sidecar_client.v1.google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

_DETAILS = "grpc-status-details-bin"
_M = TypeVar("_M", bound=Message)


class SidecarError(Exception):
    """A call failed. The text is one line for logs."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN, status: status_pb2.Status | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        "gRPC's status code."
        self.reason = ""
        "The stable reason, such as OUT_OF_STOCK; empty if the sidecar did not answer."
        self.metadata: dict[str, str] = {}
        "The values that belong to the reason."
        self.fields: dict[str, str] = {}
        "The fields of the request that are invalid, and why."
        self.retry_after: float | None = None
        "The seconds after which the sidecar suggests to retry; None if it does not."
        self.details: list[Any] = list(status.details) if status else []
        "All messages of the status, for those that this class does not decode."
        for info in self._unpack(error_details_pb2.ErrorInfo):
            self.reason, self.metadata = info.reason, dict(info.metadata)
        for bad in self._unpack(error_details_pb2.BadRequest):
            self.fields = {violation.field: violation.description for violation in bad.field_violations}
        for retry in self._unpack(error_details_pb2.RetryInfo):
            self.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9

    def _unpack(self, kind: type[_M]) -> Iterator[_M]:
        for detail in self.details:
            if detail.type_url.endswith("/" + kind.DESCRIPTOR.full_name):
                yield kind.FromString(detail.value)

    def _number(self, key: str) -> int:
        value = self.metadata.get(key, "")
        return int(value) if value.lstrip("-").isdigit() else 0


class InvalidRequest(SidecarError):
    """Fields of the request violate a rule: `fields` says which, and why."""


class RequestIdReused(InvalidRequest):
    """The request_id was used for a different request."""


class NotFound(SidecarError):
    """The resource does not exist."""

    @property
    def id(self) -> str:
        """The ID that was looked for."""
        return self.metadata.get("id", "")


class AlreadyExists(SidecarError):
    """The ID of a new resource is taken."""


class EtagMismatch(SidecarError):
    """The resource has changed since it was read."""

    @property
    def etag(self) -> str:
        """The current etag; empty if the resource does not exist."""
        return self.metadata.get("etag", "")

    @property
    def current_cart(self) -> cart_pb2.Cart | None:
        """The cart as it is now; None for other resources, and for carts of more than 3,000 bytes."""
        return next(self._unpack(cart_pb2.Cart), None)


class OutOfStock(SidecarError):
    """There are too few pieces of a product."""

    @property
    def product_id(self) -> str:
        """The first product of which there are too few."""
        return self.metadata.get("product_id", "")

    @property
    def available(self) -> int:
        """How many pieces of it are available."""
        return self._number("available")


class ReservationEnded(SidecarError):
    """The reservation is no longer held."""

    @property
    def state(self) -> str:
        """Its state: COMMITTED, RELEASED or EXPIRED."""
        return self.metadata.get("state", "").upper()


class BucketsInUse(SidecarError):
    """Rows of a stock cannot be removed, because they hold reserved pieces."""


class LimitReached(SidecarError):
    """A resource would become larger than its limit."""

    @property
    def limit(self) -> int:
        """The limit."""
        return self._number("limit")


class ReplyTooLarge(SidecarError):
    """The reply would be larger than the sidecar's limit: request less at once."""


class UnreadableRow(SidecarError):
    """The resource's row in PostgreSQL has a value that a message cannot represent."""


class ChangesExpired(SidecarError):
    """The changes after the given version are no longer retained."""


class WatchTooSlow(SidecarError):
    """The events of a watch were read too slowly."""


class ListsMissing(SidecarError):
    """Lists of a batch were sent that do not follow those that are stored."""

    @property
    def next_list(self) -> int:
        """The number of the list that has to come next."""
        return self._number("next_list")


class BatchCommitted(SidecarError):
    """A batch that is visible already cannot get more lists."""


class ReadOnly(SidecarError):
    """The sidecar serves reads only."""


class DeadlineExceeded(SidecarError):
    """There was no reply in time; a write may have been executed."""


class Unavailable(SidecarError):
    """The sidecar, or the servers behind it, did not answer."""


class RevocationPending(Unavailable):
    """Sessions have ended in PostgreSQL, but other sidecars may accept them for a moment."""


class Overloaded(SidecarError):
    """The sidecar, or a server behind it, has too much to do."""


class EventBacklogFull(Overloaded):
    """Too many events are waiting for the relay."""


class Unauthenticated(SidecarError):
    """The token or the certificate is not valid."""


class PermissionDenied(SidecarError):
    """The caller's name is not allowed, or lacks a role."""


class ClientClosed(SidecarError):
    """The client was closed before the call, or during it."""


class FallbackFailed(SidecarError):
    """Neither the sidecar nor the application's own loader answered; the loader's error is the cause."""


BY_REASON: dict[str, type[SidecarError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "REQUEST_ID_REUSED": RequestIdReused,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "ETAG_MISMATCH": EtagMismatch,
    "OUT_OF_STOCK": OutOfStock,
    "RESERVATION_ENDED": ReservationEnded,
    "BUCKETS_IN_USE": BucketsInUse,
    "LIMIT_REACHED": LimitReached,
    "REPLY_TOO_LARGE": ReplyTooLarge,
    "UNREADABLE_ROW": UnreadableRow,
    "REVOCATION_PENDING": RevocationPending,
    "CHANGES_EXPIRED": ChangesExpired,
    "WATCH_TOO_SLOW": WatchTooSlow,
    "LISTS_MISSING": ListsMissing,
    "BATCH_COMMITTED": BatchCommitted,
    "READ_ONLY": ReadOnly,
    "EVENT_BACKLOG_FULL": EventBacklogFull,
}
# For the reasons that are not in the table, too: a newer sidecar may have more of them.
_BY_CODE: dict[grpc.StatusCode, type[SidecarError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # The sidecar sends it for calls that it has not started when it stops; a caller's own cancellation is not an RpcError.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def of_status(code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> SidecarError:
    """Returns the error for the status of a call."""
    status = None
    for key, value in trailers:
        if key == _DETAILS and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:  # of something between: the code is left
                status = None
    found = SidecarError(message, code=code, status=status)
    kind = BY_REASON.get(found.reason) or _BY_CODE.get(code, SidecarError)
    return kind(f"{message} ({found.reason or code.name})", code=code, status=status)


def not_found(resource: str, id: str) -> NotFound:
    """Returns the error of a resource that a batch does not contain: the one that a single read would have had."""
    info = error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="cache-sidecar.io", metadata={"resource": resource, "id": id})
    status = status_pb2.Status(
        details=[{"type_url": "type.googleapis.com/google.rpc.ErrorInfo", "value": info.SerializeToString()}]
    )
    return NotFound(f"there is no {resource} {id!r} (NOT_FOUND)", code=grpc.StatusCode.NOT_FOUND, status=status)
