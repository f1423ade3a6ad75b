"""Where the values of the relay's metrics come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.inventory.admission import BY_CHECK
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics import dependencies, process
from cache_sidecar.metrics.certificates import Certificates
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.metrics.exposition import Families
from cache_sidecar.relay.holds import ExpiredHolds
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.relay.redis_memory import RedisMemory
from cache_sidecar.relay.sessions import ExpiredSessions
from cache_sidecar.relay.user_events import JOB, UserEventRelay
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import Backlog, RelayStore
from cache_sidecar.store.pool import ConnectionPool
from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.resilience.guard import Guard

# Seconds between two counts of a backlog.
COUNT_EVERY = 2.0
# The work whose leadership the metric `relay_leading` tells.
PUBLISHING = "changes"


class OutboxBacklog:
    """Counts the changes of one database that a region lacks, whoever leads there."""

    def __init__(self, store: RelayStore, *, region: str) -> None:
        self._store = store
        self._region = region
        self.last: Backlog | None = None
        "The result of the last count; None when PostgreSQL did not answer."

    async def count(self) -> None:
        """Counts. Raises TierFailed."""
        try:
            self.last = await self._store.backlog(self._region)
        except TierFailed:
            self.last = None
            raise


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """What publishes the changes of one database."""

    roles: Sequence[str]
    relay: Relay
    leadership: Leadership
    backlog: OutboxBacklog


@dataclass(frozen=True, kw_only=True)
class RelayMetrics:
    """Reads the parts of one relay."""

    publishing: Sequence[Publishing]
    moving: UserEventRelay
    moving_leadership: Leadership
    moving_roles: Sequence[str]
    holds: ExpiredHolds
    sessions: ExpiredSessions
    redis: RedisNodes
    memory: RedisMemory
    databases: Mapping[str, tuple[ConnectionPool, Guard]]
    "By role."
    dependencies: Dependencies
    policy: LivePolicy
    collections: Collections
    certificates: Certificates

    def collect(self) -> Families:
        """Yields all metrics with their values now."""
        yield from self._publishing()
        yield d.EVENTS_MOVED, {(): self.moving.moved}
        yield d.EVENTS_UNREADABLE, {(): self.moving.unreadable}
        yield d.HOLDS_EXPIRED, {(): self.holds.expired}
        yield d.HOLDS_STUCK, {(): self.holds.unreleased}
        yield d.SESSIONS_PURGED, {(): self.sessions.purged}
        yield d.OVERSELLS, {(BY_CHECK,): self.databases["catalog"][0].errors.oversells}
        yield from collect_redis_memory(self.memory)
        yield from dependencies.collect(self.dependencies, self.dependencies.failing(), self.databases, self.policy, self.redis)
        yield from self.certificates.collect()
        yield from process.collect(Process.RELAY, self.collections)

    def _publishing(self) -> Families:
        by_roles = {", ".join(one.roles): one for one in self.publishing}
        leaderships = {(PUBLISHING, roles): one.leadership for roles, one in by_roles.items()}
        leaderships[JOB, ", ".join(self.moving_roles)] = self.moving_leadership
        yield d.LEADING, {key: float(leadership.leads) for key, leadership in leaderships.items()}
        backlogs = {(roles,): one.backlog.last for roles, one in by_roles.items() if one.backlog.last is not None}
        yield d.OUTBOX_CHANGES, {key: backlog.changes for key, backlog in backlogs.items()}
        yield d.OUTBOX_AGE, {key: backlog.age for key, backlog in backlogs.items()}
        yield d.PUBLISHED, {(roles,): one.relay.changes for roles, one in by_roles.items()}
        yield d.PARTITIONS_LACKING, {(roles,): one.relay.lacking for roles, one in by_roles.items()}


def collect_redis_memory(memory: RedisMemory) -> Families:
    """Yields the metrics of Redis nodes."""
    nodes = {(node,): one for node, one in memory.now.items()}
    yield d.REDIS_USED, {key: one.used for key, one in nodes.items()}
    yield d.REDIS_LIMIT, {key: one.limit for key, one in nodes.items() if one.limit}
    yield d.REDIS_GROWTH, {key: one.growth for key, one in nodes.items() if one.growth is not None}
    yield d.REDIS_DAYS_LEFT, {key: days for key, one in nodes.items() if (days := one.days_left) is not None}
    yield d.REDIS_EVICTED, {key: one.evicted for key, one in nodes.items()}
