"""What a web application answers when the sidecar refuses a call, whichever framework it has."""

import math

from cache_sidecar_client import errors

_STATUSES: list[tuple[type[errors.SidecarError], int]] = [
    (errors.NotFound, 404),
    (errors.InvalidRequest, 400),
    (errors.AlreadyExists, 409),
    (errors.EtagMismatch, 409),
    (errors.OutOfStock, 409),
    (errors.ReservationEnded, 409),
    (errors.LimitReached, 409),
    (errors.Overloaded, 503),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
]


def http_status(error: errors.SidecarError) -> int:
    """Returns the status for an error; 500 for those that are not the caller's, such as a token that is refused."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def problem(error: errors.SidecarError) -> dict[str, object]:
    """Returns an error as JSON for the application's callers: reason, values, invalid fields; of a status 500, nothing."""
    if http_status(error) == 500:
        return {"reason": "INTERNAL"}
    return {"reason": error.reason or error.code.name, "values": error.metadata, "fields": error.fields}


def headers(error: errors.SidecarError) -> dict[str, str]:
    """Returns `Retry-After`, where the sidecar says when to retry."""
    return {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
