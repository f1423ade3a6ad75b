"""The metrics of what a sidecar and a relay depend on."""

from collections.abc import Iterable, Mapping

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.core.dependencies import Dependencies, Failing
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics.exposition import Families
from cache_sidecar.store.pool import ConnectionPool
from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.resilience.guard import Guard


def collect(
    dependencies: Dependencies,
    failing: Iterable[Failing],
    databases: Mapping[str, tuple[ConnectionPool, Guard]],
    policy: LivePolicy,
    redis: RedisNodes,
) -> Families:
    """Yields the metrics; `failing` are the dependencies that fail now, `databases` those of each role."""
    now = {(one.what, one.which) for one in failing}
    known = {(one.what, one.which) for one in dependencies.all()} | now
    yield d.FAILING, {key: float(key in now) for key in sorted(known)}
    breakers = {
        (one.what, one.which, problem): breaker for one in dependencies.all() for problem, breaker in one.breakers.items()
    }
    yield d.BREAKER_OPEN, {key: float(breaker.is_open) for key, breaker in breakers.items()}
    yield d.BREAKER_OPENED, {key: breaker.opened for key, breaker in breakers.items()}
    pools = {(node,): pool for node, pool in redis.connections().items()}
    yield d.REDIS_RUNNING, {key: pool.in_use for key, pool in pools.items()}
    yield d.REDIS_IDLE, {key: pool.idle for key, pool in pools.items()}
    yield d.REDIS_SIZE, {key: pool.limit for key, pool in pools.items()}
    yield d.POSTGRES_RUNNING, {(role,): pool.in_use for role, (pool, _) in databases.items()}
    yield d.POSTGRES_IDLE, {(role,): pool.idle for role, (pool, _) in databases.items()}
    yield d.POSTGRES_SIZE, {(role,): pool.size for role, (pool, _) in databases.items()}
    yield d.POSTGRES_WAITING, {(role,): guard.waiting for role, (_, guard) in databases.items()}
    yield d.POLICY_VERSION, {(): policy.version}
    yield d.POLICY_REFUSED, {(): policy.refused}
