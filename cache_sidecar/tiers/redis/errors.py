"""What redis-py raises, as TierFailed."""

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
# What uvloop says, as a RuntimeError, to who writes to a connection that was lost a moment ago; redis-py passes it on.
_LOST = "the handler is closed"
# What Redis adds to its words, and differs from call to call: arguments, such as a customer's id, and the place in a script.
_DETAILS = re.compile(r",? with args beginning with.*|,? script: (\S+, )?on @user_function:\d+.*", re.DOTALL)


def words(error: Exception) -> str:
    """Returns what Redis said, with the code that redis-py takes off; empty when it said nothing."""
    text, code = without_details(str(error)), getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(code) else text


def as_failure(error: Exception) -> TierFailed:
    """Returns what one of the `KNOWN` errors says of Redis. Raises a RuntimeError that says nothing of it."""
    if isinstance(error, RuntimeError):
        if _LOST not in str(error):
            raise error
        return TierFailed(Tier.L2, Failure.UNREACHABLE, "the connection was lost")
    failure = next(failure for kinds, failure in _FAILURES if isinstance(error, kinds))
    return TierFailed(Tier.L2, failure, words(error))


def without_details(text: str) -> str:
    """Returns what Redis said without what differs from call to call."""
    return _DETAILS.sub("", text)


@contextmanager
def failures() -> Iterator[None]:
    """Turns whatever redis-py raises into TierFailed."""
    try:
        yield
    except KNOWN as error:
        raise as_failure(error) from error
