"""Every error raised on purpose. `status.py` says how each one reaches a caller, `cli.py` how it reaches a terminal."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class SidecarError(Exception):
    """Base of all errors below; the text is one line for the person who caused it."""


class SettingsError(SidecarError):
    """A setting, policy or command line is wrong; the text says what would be right."""


class InputError(SidecarError):
    """A file or argument given by the user cannot be used."""


class ServerUnreachable(SidecarError):
    """A server that a command needs does not answer."""


class RequestError(SidecarError):
    """A call that cannot succeed as it was made."""


@dataclass
class Unauthenticated(RequestError):
    """A call shows no token that is valid."""

    had_token: bool

    def __str__(self) -> str:
        if self.had_token:
            return "invalid token"
        return "a token is needed: send the metadata `authorization: Bearer TOKEN`"


@dataclass
class ClientNotAllowed(RequestError):
    """The caller's certificate has none of the names that may call."""

    names: str

    def __str__(self) -> str:
        return f"client certificate names ({self.names or 'none'}) are not in allowed_clients"


@dataclass
class InvalidRequest(RequestError):
    """Fields that break a rule, by their path, each with a sentence."""

    violations: Mapping[str, str]

    def __str__(self) -> str:
        return "; ".join(f"{path}: {text}" if path else text for path, text in self.violations.items())


@dataclass
class NotFound(RequestError):
    """No such resource."""

    resource: str
    id: str

    def __str__(self) -> str:
        return f"there is no {self.resource} {self.id!r}"


@dataclass
class DataLoss(RequestError):
    """There is such a resource, but PostgreSQL holds something in its row that no caller can be told."""

    resource: str
    id: str
    why: str = ""
    "What cannot be read, without saying what is there."

    def __str__(self) -> str:
        return f"the row of {self.resource} {self.id!r} cannot be read: {self.why or 'mend it in PostgreSQL'}"


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
    details: tuple[object, ...] = field(default=(), kw_only=True)
    "Messages that say what is there now."

    def __str__(self) -> str:
        return f"{self.resource} {self.id!r} was changed by someone else: its etag is now {self.current!r}"


@dataclass
class LimitReached(RequestError):
    """Something would grow over its bound."""

    what: str
    limit: int

    def __str__(self) -> str:
        return f"there can be at most {self.limit} {self.what}"


@dataclass
class ReplyTooLarge(RequestError):
    """A reply would be larger than clients take; sizes in bytes."""

    size: int
    limit: int

    def __str__(self) -> str:
        return f"the reply would have {self.size} bytes, and max_message_bytes allows {self.limit}: ask for less at once"


@dataclass
class RevocationPending(RequestError):
    """What was ended in PostgreSQL may still be accepted by other sidecars."""

    def __str__(self) -> str:
        return "the sessions are ended in PostgreSQL, but Redis could not be told: other sidecars may accept them, try again"


@dataclass
class RequestIdReused(RequestError):
    """A request_id came back with another request."""

    request_id: str

    def __str__(self) -> str:
        return f"request_id {self.request_id} was used for a different request: make a new one for each request"


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
    """There are fewer pieces of a product than somebody wants."""

    product_id: str
    available: int

    def __str__(self) -> str:
        return f"only {self.available} pieces of {self.product_id!r} are available"


@dataclass
class ReservationEnded(RequestError):
    """A reservation was committed, released or expired before."""

    reservation_id: str
    state: str

    def __str__(self) -> str:
        return f"reservation {self.reservation_id} is {self.state}, not held any more"


@dataclass
class BucketsInUse(RequestError):
    """Pieces are reserved in buckets that are to go."""

    product_id: str

    def __str__(self) -> str:
        return (
            f"pieces of {self.product_id!r} are reserved in the buckets to be taken away: "
            "try again when those reservations have ended"
        )


@dataclass
class ReadOnly(RequestError):
    """What a shop keeps in its own tables cannot be written through the view over them."""

    detail: str

    def __str__(self) -> str:
        return f"only the shop's own programs write this, as its view cannot be updated: {self.detail}"


# Seconds, on average, after which work that was refused because there was too much of it may be tried again.
RETRY_AFTER = 0.1


def jittered(seconds: float) -> float:
    """Returns half to one and a half of it, so that those who were refused together don't come again together."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311  # nobody gains by guessing it


@dataclass
class Overloaded(RequestError):
    """A bound on waiting work is reached."""

    what: str
    retry_after: float = field(default_factory=lambda: jittered(RETRY_AFTER), kw_only=True)

    def __str__(self) -> str:
        return f"too much work at once: {self.what}"


@dataclass
class DeadlineExceeded(RequestError):
    """The caller's time ran out."""

    def __str__(self) -> str:
        return "the deadline passed before the work was done"


@dataclass
class Draining(RequestError):
    """The sidecar is stopping."""

    def __str__(self) -> str:
        return "this sidecar is stopping: connect again"


class Tier(Enum):
    """A tier that can fail."""

    L2 = "Redis"
    STORE = "PostgreSQL"


class Failure(Enum):
    """How it failed."""

    UNREACHABLE = "not reachable"
    TIMEOUT = "no answer in time"
    REFUSED = "refused by the server"
    BUSY = "too many callers are waiting for it"
    CONFLICT = "callers are in each other's way"


class Operation(Enum):
    """What a tier was asked to do."""

    READ = "read"
    FILL = "fill"
    "Keep what was read elsewhere."
    CHANGE = "change"
    "Take note of what was committed."
    WRITE = "write"


class TierFailed(SidecarError):
    """A tier did not do what it was asked."""

    def __init__(self, tier: Tier, failure: Failure, detail: str = "") -> None:
        super().__init__(f"{tier.value}: {detail or failure.value}")
        self.tier = tier
        self.failure = failure
        self.detail = detail
        "The server's own words; empty when it said none."
