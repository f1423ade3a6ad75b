"""Every error raised on purpose. `server/status.py` maps them to gRPC statuses, `cli.py` to exit codes."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class SidecarError(Exception):
    """Base of all errors below; the text is one line for the user or caller."""


class SettingsError(SidecarError):
    """A setting, policy or command line is invalid; the text says what is allowed."""


class InputError(SidecarError):
    """A file or argument given by the user is invalid."""


class ServerUnreachable(SidecarError):
    """A server required by a command does not answer."""


class RequestError(SidecarError):
    """The fault is in the request, or in its timing: the same call does not succeed now."""


@dataclass
class Unauthenticated(RequestError):
    """A call has no valid token."""

    had_token: bool

    def __str__(self) -> str:
        if self.had_token:
            return "invalid token"
        return "a token is required: send the metadata `authorization: Bearer TOKEN`"


@dataclass
class InvalidCertificate(RequestError):
    """The caller's certificate is not valid, or no longer: it was when the connection began."""

    problem: str
    "Such as `was revoked`."

    def __str__(self) -> str:
        return f"the client certificate {self.problem}: connect again with a valid one"


@dataclass
class ClientNotAllowed(RequestError):
    """No name in the caller's certificate is in allowed_clients."""

    names: str

    def __str__(self) -> str:
        return f"client certificate names ({self.names or 'none'}) are not in allowed_clients"


@dataclass
class RoleMissing(RequestError):
    """The caller lacks the role that a method needs."""

    method: str
    "Such as `cache_sidecar.v1.AdminService/Invalidate`."
    role: str
    has: str
    "The roles it has, such as `app+read`; empty if it has no roles."
    caller: str
    "Such as `token cart`; empty for a caller without credentials."
    advice: str
    "What to configure."

    def __str__(self) -> str:
        has = f"has only {self.has}" if self.has else "has no role"
        return f"{self.method.rpartition('.')[2]} needs the role {self.role}, but the caller {has}: {self.advice}"


@dataclass
class AuditFailed(RequestError):
    """A call of AdminService was executed, but the audit log cannot be written."""

    problem: str
    "Such as `No space left on device`."

    def __str__(self) -> str:
        return f"the call was executed, but the audit log cannot be written: {self.problem}"


@dataclass
class InvalidRequest(RequestError):
    """Fields that violate a rule: path to description."""

    violations: Mapping[str, str]

    def __str__(self) -> str:
        return "; ".join(f"{path}: {text}" if path else text for path, text in self.violations.items())


@dataclass
class NotFound(RequestError):
    """The resource does not exist."""

    resource: str
    id: str

    def __str__(self) -> str:
        return f"there is no {self.resource} {self.id!r}"


@dataclass
class DataLoss(RequestError):
    """The resource exists, but its row in PostgreSQL has a value that the API cannot represent."""

    resource: str
    id: str
    why: str = ""
    "What cannot be read, without the value itself."

    def __str__(self) -> str:
        return f"the row of {self.resource} {self.id!r} cannot be read: {self.why or 'repair it in PostgreSQL'}"


@dataclass
class AlreadyExists(RequestError):
    """The id of a new resource is taken."""

    resource: str
    id: str

    def __str__(self) -> str:
        return f"{self.resource} {self.id!r} exists already"


@dataclass
class EtagMismatch(RequestError):
    """The resource changed since the caller read it."""

    resource: str
    id: str
    current: str
    "Empty if the resource does not exist."
    details: tuple[object, ...] = field(default=(), kw_only=True)
    "Messages with the current state, for the details of the status."

    def __str__(self) -> str:
        if not self.current:
            return f"{self.resource} {self.id!r} does not exist, so it has no etag: leave the etag empty"
        return f"{self.resource} {self.id!r} was changed by someone else: its etag is now {self.current!r}"


@dataclass
class LimitReached(RequestError):
    """A bound on a resource's size would be exceeded."""

    what: str
    limit: int

    def __str__(self) -> str:
        return f"there can be at most {self.limit} {self.what}"


@dataclass
class ReplyTooLarge(RequestError):
    """A reply would exceed max_message_bytes; sizes in bytes."""

    size: int
    limit: int

    def __str__(self) -> str:
        return f"the reply would have {self.size} bytes, but max_message_bytes is {self.limit}: request less at once"


@dataclass
class RevocationPending(RequestError):
    """Sessions are ended in PostgreSQL, but other sidecars may still accept them."""

    def __str__(self) -> str:
        return "the sessions are ended in PostgreSQL but not yet in Redis, so other sidecars may still accept them: try again"


@dataclass
class RequestIdReused(RequestError):
    """A request_id was reused for a different request."""

    request_id: str

    def __str__(self) -> str:
        return f"request_id {self.request_id} was used for a different request: generate a new one for each request"


@dataclass
class ChangesExpired(RequestError):
    """The changes a watcher wants to resume from are no longer kept."""

    after_version: int

    def __str__(self) -> str:
        return (
            f"changes after version {self.after_version} are no longer kept: read everything again, then watch from the present"
        )


@dataclass
class WatchTooSlow(RequestError):
    """A watcher reads more slowly than changes happen."""

    def __str__(self) -> str:
        return "changes arrive faster than they are read: resume from the last version received"


@dataclass
class OutOfStock(RequestError):
    """Fewer pieces are available than were requested."""

    product_id: str
    available: int

    def __str__(self) -> str:
        return f"only {self.available} pieces of {self.product_id!r} are available"


@dataclass
class ReservationEnded(RequestError):
    """The reservation is already committed, released or expired."""

    reservation_id: str
    state: str

    def __str__(self) -> str:
        return f"reservation {self.reservation_id} is {self.state}, no longer held"


@dataclass
class BucketsInUse(RequestError):
    """Pieces are reserved in buckets that would be removed."""

    product_id: str

    def __str__(self) -> str:
        return (
            f"pieces of {self.product_id!r} are reserved in the buckets to be removed: "
            "try again when those reservations have ended"
        )


@dataclass
class ReadOnly(RequestError):
    """The shop's own tables cannot be written through the view over them."""

    detail: str

    def __str__(self) -> str:
        return f"read-only here, as its view cannot be updated: {self.detail}; write it with the shop's own programs"


@dataclass
class ListsMissing(RequestError):
    """An import of recommendations begins after the lists that are stored."""

    batch_id: str
    stored: int
    first: int

    def __str__(self) -> str:
        return f"batch {self.batch_id!r} has {self.stored:,} lists so far: go on with list {self.stored}, not {self.first}"


@dataclass
class BatchCommitted(RequestError):
    """A batch of recommendations cannot be changed any more."""

    batch_id: str
    is_replaced: bool

    def __str__(self) -> str:
        state = "was replaced by a later one" if self.is_replaced else "is complete, and served"
        return f"batch {self.batch_id!r} {state}: use another batch_id"


# Average seconds after which callers refused because of overload should retry.
RETRY_AFTER = 0.1
# The same while the relay is behind: it moves some ten thousand events a second.
BACKLOG_RETRY_AFTER = 2.0


def with_jitter(seconds: float) -> float:
    """Returns 0.5 to 1.5 times as much, so that callers refused together don't retry together."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311  # not for cryptography


@dataclass
class Overloaded(RequestError):
    """A bound on waiting work is reached."""

    what: str
    retry_after: float = field(default_factory=lambda: with_jitter(RETRY_AFTER), kw_only=True)

    def __str__(self) -> str:
        return f"overloaded: {self.what}"


@dataclass
class EventBacklogFull(RequestError):
    """As many user events as may wait in Redis are waiting for the relay."""

    retry_after: float = field(default_factory=lambda: with_jitter(BACKLOG_RETRY_AFTER), kw_only=True)

    def __str__(self) -> str:
        return (
            "too many events are waiting for the relay to move them to PostgreSQL: see event_backlog, and whether a relay runs"
        )


@dataclass
class DeadlineExceeded(RequestError):
    """The caller's deadline passed."""

    def __str__(self) -> str:
        return "the deadline passed before the work was done"


@dataclass
class StreamIdle(RequestError):
    """A stream's next request did not come in time."""

    seconds: float

    def __str__(self) -> str:
        return f"the stream sent nothing for {self.seconds:g} s; what was stored stays stored, so go on in another stream"


@dataclass
class Draining(RequestError):
    """The sidecar is stopping."""

    def __str__(self) -> str:
        return "this sidecar is shutting down: reconnect"


class Tier(Enum):
    """A tier that can fail."""

    L2 = "Redis"
    STORE = "PostgreSQL"
    MODEL = "the shop's recommendation model"


class Failure(Enum):
    """How a tier failed."""

    UNREACHABLE = "not reachable"
    TIMEOUT = "no answer in time"
    REFUSED = "refused by the server"
    BUSY = "too many callers are waiting"
    CONFLICT = "conflicting transactions"


class Operation(Enum):
    """What was asked of a tier."""

    READ = "read"
    FILL = "fill"
    "Store what was loaded from elsewhere."
    CHANGE = "change"
    "Publish what was committed."
    WRITE = "write"


class TierFailed(SidecarError):
    """An operation on a tier failed."""

    def __init__(self, tier: Tier, failure: Failure, detail: str = "") -> None:
        super().__init__(f"{tier.value}: {detail or failure.value}")
        self.tier = tier
        self.failure = failure
        self.detail = detail
        "The server's own message; empty if it sent none."
