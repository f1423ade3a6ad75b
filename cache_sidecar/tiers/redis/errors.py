"""Maps what redis-py raises to TierFailed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ClusterDownError, MaxConnectionsError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cache_sidecar.core.errors import Failure, Tier, TierFailed

_FAILURES = (
    ((TimeoutError, RedisTimeoutError), Failure.TIMEOUT),
    ((MaxConnectionsError,), Failure.BUSY),
    ((RedisConnectionError, ClusterDownError, RedisClusterException, OSError), Failure.UNREACHABLE),
    ((RedisError,), Failure.REFUSED),
)
KNOWN = (RedisError, TimeoutError, OSError, RuntimeError)
# uvloop's RuntimeError for a write to a connection that was lost a moment ago; redis-py passes it on.
_LOST = "the handler is closed"
# What Redis adds to its messages that differs from call to call: arguments, such as a customer's id, and the line of a script.
_DETAILS = re.compile(r",? with args beginning with.*|,? script: (\S+, )?on @user_(?:function|script):\d+.*", re.DOTALL)


def words(error: Exception) -> str:
    """Returns the message of Redis, with the code that redis-py strips; empty if there is none."""
    text, code = without_details(str(error)), getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(code) else text


def as_failure(error: Exception) -> TierFailed:
    """Maps one of the `KNOWN` errors. Raises it again if it is a RuntimeError that does not come from the connection."""
    if isinstance(error, RuntimeError):
        if _LOST not in str(error):
            raise error
        return TierFailed(Tier.L2, Failure.UNREACHABLE, "the connection was lost")
    failure = next(failure for kinds, failure in _FAILURES if isinstance(error, kinds))
    return TierFailed(Tier.L2, failure, words(error))


def without_details(text: str) -> str:
    """Returns a message of Redis without what differs from call to call."""
    return _DETAILS.sub("", text)


@contextmanager
def failures() -> Iterator[None]:
    """Raises as TierFailed whatever redis-py raises."""
    try:
        yield
    except KNOWN as error:
        raise as_failure(error) from error
