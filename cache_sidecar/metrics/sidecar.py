"""Where the values of a sidecar's metrics come from: counters that its parts keep anyway, read when they are asked for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from google.rpc.code_pb2 import Code

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.core.dependencies import Dependencies, Failing
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.inventory.admission import BY_ADJUSTMENT, BY_ADMISSION, BY_CHECK, BY_POSTGRES
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics import dependencies, process
from cache_sidecar.metrics.certificates import Certificates
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.metrics.exposition import Distribution, Families, with_method
from cache_sidecar.server.call_stats import BOUNDS
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.middleware import Middleware
from cache_sidecar.services.event_writer import EventCounts
from cache_sidecar.store.pool import ConnectionPool
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.coherence.subscriber import InvalidationSubscriber
from cache_sidecar.tiers.memory.reuse import L1_ALTERNATIVES, TTLS
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspection
from cache_sidecar.tiers.ports import Source
from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.resilience.guard import Guard


@dataclass(frozen=True, kw_only=True)
class SidecarMetrics:
    """Reads the parts of one sidecar."""

    engine_name: str
    engine: Engine
    stack: Middleware
    datasets: Mapping[str, Dataset]
    inspections: Mapping[str, Inspection]
    "Those of the datasets that are inspected."
    oversells: Mapping[str, int]
    "By who refused, see `inventory/admission.py`."
    redis: RedisNodes
    l2_guard: Guard
    events: Callable[[], EventCounts]
    copy_lag: Callable[[], float | None]
    "Of the copy of the events, in seconds."
    l1_bounds: Mapping[str, int]
    "Bytes, by dataset."
    subscriber: InvalidationSubscriber
    region: Region
    databases: Mapping[str, tuple[ConnectionPool, Guard]]
    "By role."
    dependencies: Dependencies
    failing: Callable[[], Iterable[Failing]]
    policy: LivePolicy
    collections: Collections
    certificates: Certificates
    spans: Callable[[], Mapping[str, int]]
    "By outcome."

    def collect(self) -> Families:
        """Yields all metrics with their values now."""
        yield from self._calls()
        yield from self._admission()
        yield from self._tiers()
        yield from self._alternatives()
        yield from self._events()
        yield from self._coherence()
        yield d.SPANS, {(outcome,): count for outcome, count in self.spans().items()}
        yield from dependencies.collect(self.dependencies, self.failing(), self.databases, self.policy, self.redis)
        yield d.REDIS_WAITING, {(): self.l2_guard.waiting}
        yield from self.certificates.collect()
        yield from process.collect(Process.SIDECAR, self.collections, engine=self.engine_name)

    def _calls(self) -> Families:
        calls, native = self.stack.calls, {path.removeprefix("/"): timed for path, timed in self.engine.hits().items()}
        hits = {name: sum(buckets) for name, (buckets, _) in native.items()}
        by_code = {(name, code): count for name, stats in calls.items() for code, count in stats.codes.items()}
        for name, count in hits.items():
            by_code[name, Code.OK] = by_code.get((name, Code.OK), 0) + count
        reasons = {(name, reason): count for name, stats in calls.items() for reason, count in stats.reasons.items()}
        for path, refused in self.engine.refusals().items():
            name = path.removeprefix("/")
            for code, reason, count in (
                (Code.RESOURCE_EXHAUSTED, "OVERLOADED", refused.overloaded),
                (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", refused.late),
                (Code.UNAVAILABLE, "", refused.unanswered),
            ):
                if count:
                    by_code[name, code] = by_code.get((name, code), 0) + count
                    if reason:
                        reasons[name, reason] = reasons.get((name, reason), 0) + count
        yield d.CALLS, {with_method(name, Code.Name(code)): count for (name, code), count in by_code.items()}
        yield d.CALL_ERRORS, {with_method(name, reason): count for (name, reason), count in reasons.items()}
        durations = {name: Distribution(BOUNDS, stats.buckets, stats.seconds, stats.exemplars) for name, stats in calls.items()}
        for name, (buckets, seconds) in native.items():
            durations[name] = durations[name].plus(buckets, seconds)
        yield d.CALL_SECONDS, {with_method(name): one for name, one in durations.items() if any(one.counts)}
        yield d.NATIVE_HITS, {with_method(name): count for name, count in hits.items()}
        counters = dict(self.engine.counters())
        if counters:
            yield d.CONNECTIONS, {(): counters.pop("connections")}
            yield d.CALLS_WAITING, {(): counters.pop("waiting")}
        yield d.NATIVE_EVENTS, {(event,): count for event, count in counters.items()}
        yield d.CALLS_RUNNING, {(): self.stack.admission.inside}
        yield d.CALLS_LIMIT, {(): self.stack.admission.limit}
        yield d.STREAMS, {(): self.stack.open_streams}

    def _admission(self) -> Families:
        limiters = {(one.name, one.priority.name.lower()): one for one in self.stack.admission.limiters}
        yield d.SERVICE_CALLS, {key: limiter.inside for key, limiter in limiters.items()}
        refused = {key: limiter.refused for key, limiter in limiters.items()}
        by_name = {key[0]: key for key in limiters}
        for path, refusals in self.engine.refusals().items():
            method = path.removeprefix("/")
            if key := by_name.get(method, by_name.get(method.partition("/")[0])):
                refused[key] += refusals.overloaded
        yield d.CALLS_REFUSED, {key: float(count) for key, count in refused.items()}
        pool, _ = self.databases["catalog"]
        by = {who: self.oversells.get(who, 0) for who in (BY_ADMISSION, BY_POSTGRES, BY_ADJUSTMENT)}
        yield d.OVERSELLS, {(who,): count for who, count in {**by, BY_CHECK: pool.errors.oversells}.items()}

    def _tiers(self) -> Families:
        stats = {
            (name, source.name.lower()): found
            for name, dataset in self.datasets.items()
            for source, found in dataset.stats().items()
        }
        yield d.HITS, {key: one.counters.hits for key, one in stats.items()}
        yield d.MISSES, {key: one.counters.misses for key, one in stats.items()}
        yield d.LOADS, {key: one.loads for key, one in stats.items()}
        yield d.BATCHES, {key: one.batches for key, one in stats.items()}
        yield d.COALESCED, {key: one.coalesced for key, one in stats.items()}
        yield d.FILLS, {key: one.counters.fills for key, one in stats.items()}
        cached = {key: one for key, one in stats.items() if key[1] != Source.STORE.name.lower()}
        yield d.EARLY_REFRESHES, {key: one.counters.refreshes for key, one in cached.items()}
        yield d.TIER_ERRORS, {key: one.counters.errors for key, one in stats.items()}
        yield d.UNREADABLE, {key: one.unreadable for key, one in stats.items()}
        yield d.NEWER, {key: one.counters.newer for key, one in stats.items()}
        yield d.UNSIGNED, {(name,): one.unsigned for (name, tier), one in stats.items() if tier == Source.L2.name.lower()}
        memories = {(name,): one for (name, tier), one in stats.items() if tier == Source.L1.name.lower()}
        yield d.FILLS_REFUSED, {key: one.refused for key, one in memories.items()}
        yield d.EVICTIONS, {key: one.evictions for key, one in memories.items()}
        yield d.L1_ENTRIES, {key: one.entries for key, one in memories.items()}
        yield d.L1_BYTES, {key: one.bytes for key, one in memories.items()}
        yield d.L1_LIMIT, {(name,): bytes for name, bytes in self.l1_bounds.items()}
        shadows = {(name,): dataset.rollout.shadow for name, dataset in self.datasets.items()}
        yield d.SHADOW_COMPARED, {key: shadow.compared for key, shadow in shadows.items()}
        yield d.SHADOW_MISMATCHES, {key: shadow.mismatches for key, shadow in shadows.items()}
        results = {
            name: {"fresh": one.fresh, "stale": one.stale, "violation": one.violations, "newer": one.newer}
            for name, one in self.inspections.items()
        }
        yield d.INSPECTIONS, {(name, result): count for name, counts in results.items() for result, count in counts.items()}

    def _alternatives(self) -> Families:
        figures = {name: dataset.reuse.figures() for name, dataset in self.datasets.items()}
        in_l1 = {name: one for name, one in figures.items() if name in self.l1_bounds}
        l1 = [(f"{size:g}", f"{ttl:g}") for size, ttl in L1_ALTERNATIVES]
        ttls = [f"{ttl:g}" for ttl in TTLS]
        yield d.SIMULATED_READS, {(name,): one.reads for name, one in figures.items()}
        for metric, values in (
            (d.SIMULATED_HITS, {name: one.hits for name, one in in_l1.items()}),
            (d.SIMULATED_REFRESHES, {name: one.refreshes for name, one in in_l1.items()}),
        ):
            yield metric, {(name, *of): value for name, found in values.items() for of, value in zip(l1, found, strict=True)}
        for metric, values in (
            (d.SIMULATED_OUTDATED, {name: one.outdated for name, one in in_l1.items()}),
            (d.SIMULATED_LOADS, {name: one.loads for name, one in figures.items()}),
        ):
            yield metric, {(name, of): value for name, found in values.items() for of, value in zip(ttls, found, strict=True)}
        yield d.SIMULATED_KEYS, {(name,): one.keys for name, one in figures.items()}
        yield d.SIMULATED_SHARE, {(name,): one.rate for name, one in figures.items()}
        policies = {name: dataset.policy() for name, dataset in self.datasets.items()}
        yield (
            d.POLICY_VALUE,
            {(name, key): float(getattr(policy, key)) for name, policy in policies.items() for key in d.POLICY_KEYS},
        )

    def _events(self) -> Families:
        counts = self.events()
        outcomes = {"stored": counts.stored, "direct": counts.direct, "refused": counts.refused, "opted out": counts.opted_out}
        yield d.EVENTS, {(outcome,): count for outcome, count in outcomes.items()}
        yield d.EVENT_BACKLOG, {(): counts.backlog}
        yield d.EVENT_AGE, {(): counts.backlog_age}
        lag = self.copy_lag()
        yield d.COPY_LAG, {} if lag is None else {(): lag}

    def _coherence(self) -> Families:
        yield d.FEED_PARTITIONS, {(): self.subscriber.fresh_partitions()}
        if (delay := self.subscriber.delay()) is not None:
            yield d.INVALIDATION_DELAY, {(): delay}
        yield d.LAGGING, {(name,): count for name, count in self.region.lagging().items()}
        yield d.RELAY_LAG, {(role,): lag for role, lag in self.region.lags().items()}
