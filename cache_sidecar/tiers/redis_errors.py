"""What redis-py raises, as TierFailed."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ClusterDownError, MaxConnectionsError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cache_sidecar.errors import Failure, Tier, TierFailed

_FAILURES = (
    ((TimeoutError, RedisTimeoutError), Failure.TIMEOUT),
    ((MaxConnectionsError,), Failure.BUSY),
    ((RedisConnectionError, ClusterDownError, RedisClusterException, OSError), Failure.UNREACHABLE),
    ((RedisError,), Failure.REFUSED),
)
KNOWN = (RedisError, TimeoutError, OSError)


def as_failure(error: Exception) -> TierFailed:
    """Returns what one of the `KNOWN` errors says of Redis."""
    failure = next(failure for kinds, failure in _FAILURES if isinstance(error, kinds))
    return TierFailed(Tier.L2, failure, str(error))


@contextmanager
def failures() -> Iterator[None]:
    """Turns whatever redis-py raises into TierFailed."""
    try:
        yield
    except KNOWN as error:
        raise as_failure(error) from error
