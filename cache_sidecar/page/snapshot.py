"""What the page shows, as JSON: counters since the start, from which the browser makes rates, and what is so now.

Times are in seconds. No ids of private datasets, and nothing that `GetStats`, `GetPolicy` and the log do not tell either.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.rpc.code_pb2 import Code

from cache_sidecar import __version__
from cache_sidecar.config.live_policy import Origin
from cache_sidecar.core.recent_events import RecentEvents
from cache_sidecar.metrics.process import resident_bytes
from cache_sidecar.metrics.sidecar import SidecarMetrics
from cache_sidecar.server.call_stats import BOUNDS
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import PARTITIONS

Json = dict[str, Any]
# Keys shown of each dataset.
HOTTEST = 8
_ORIGINS = {Origin.BUILT_IN: "built in", Origin.FILE: "file", Origin.OVERRIDE: "changed here"}


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """Makes snapshots of one sidecar."""

    parts: SidecarMetrics
    events: RecentEvents
    uptime: Callable[[], float]
    address: Callable[[], str]
    "Of gRPC, host:port or the path of a socket."

    def identity(self) -> Json:
        """Returns what does not change while the process runs."""
        started = time.time() - self.uptime()
        return {
            "version": __version__,
            "engine": self.parts.engine_name,
            "address": self.address(),
            "started": started,
            "bounds": BOUNDS,
        }

    def figures(self) -> Json:
        """Returns the counters and states of now."""
        parts = self.parts
        counters = dict(parts.engine.counters())
        return {
            "time": time.time(),
            "uptime": self.uptime(),
            "draining": parts.stack.is_draining,
            "calls": self._calls(),
            "running": parts.stack.admission.inside,
            "limit": parts.stack.admission.limit,
            "streams": parts.stack.open_streams,
            "connections": counters.get("connections"),
            "datasets": {name: self._dataset(name, dataset) for name, dataset in parts.datasets.items()},
            "failing": [one._asdict() for one in parts.failing()],
            "known": sorted({(one.what, one.which) for one in parts.dependencies.all()}),
            "invalidations": {
                "fresh": parts.subscriber.fresh_partitions(),
                "partitions": PARTITIONS,
                "delay": parts.subscriber.delay(),
                "lags": dict(parts.region.lags()),
                "lagging": dict(parts.region.lagging()),
            },
            "cpu": time.process_time(),
            "memory": resident_bytes(),
            "hottest": self._hottest(),
        }

    def _calls(self) -> Mapping[str, Json]:
        """Returns the calls of each method that was called, those that the native engine answered included."""
        native = {path.removeprefix("/"): timed for path, timed in self.parts.engine.hits().items()}
        found = {}
        for name, stats in self.parts.stack.calls.items():
            buckets, hits = stats.buckets, 0
            if name in native:
                hits = sum(native[name][0])
                buckets = [one + other for one, other in zip(buckets, native[name][0], strict=True)]
            count = sum(stats.codes.values()) + hits
            if count:
                failed = {Code.Name(code): number for code, number in stats.codes.items() if code != Code.OK}
                found[name.removeprefix("cache_sidecar.v1.")] = {"count": count, "failed": failed, "buckets": buckets}
        return found

    def _dataset(self, name: str, dataset: Dataset) -> Json:
        stats = {source.name.lower(): found for source, found in dataset.stats().items()}
        memory, shadow = stats["l1"], dataset.rollout.shadow
        inspected = self.parts.inspections.get(name)
        return {
            "hits": {tier: one.counters.hits for tier, one in stats.items()},
            "misses": {tier: one.counters.misses for tier, one in stats.items()},
            "errors": sum(one.counters.errors for one in stats.values()),
            "entries": memory.entries,
            "bytes": memory.bytes,
            "bound": self.parts.l1_bounds.get(name, 0),
            "evictions": memory.evictions,
            "shadow": {"compared": shadow.compared, "mismatches": shadow.mismatches},
            "violations": inspected.violations if inspected else None,
        }

    def _hottest(self) -> Json:
        watched = {name: one.sampler for name, one in self.parts.datasets.items() if one.sampler.hottest is not None}
        return {
            name: {"every": one.interval(), "samples": one.hottest.total, "keys": one.hottest.top(HOTTEST)}
            for name, one in watched.items()
            if one.hottest is not None and one.hottest.total
        }

    def policy_state(self) -> tuple[object, ...]:
        """Returns a value that differs when `policy` has something new."""
        policy = self.parts.policy
        return policy.version, policy.load_time, policy.refused, policy.last_error

    def policy(self) -> Json:
        """Returns the policy in effect, each value with its origin."""
        policy = self.parts.policy
        return {
            "version": policy.version,
            "file": policy.file,
            "loaded": policy.load_time,
            "refused": policy.refused,
            "problem": policy.last_error,
            "datasets": {
                name: {
                    key: [_finite(value), _ORIGINS[policy.origin(name, key)]]
                    for key, value in policy[name].model_dump().items()
                }
                for name in sorted(self.parts.datasets)
            },
        }

    def recent(self) -> list[Json]:
        """Returns the last events, the newest first."""
        return [event._asdict() for event in reversed(self.events.all())]


def _finite(value: object) -> object:
    """Returns a policy value as JSON can have it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
