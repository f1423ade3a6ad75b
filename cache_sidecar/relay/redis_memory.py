"""Measures the memory of the region's Redis nodes, and forecasts when it will be full.

Every relay measures, whether or not it leads: there are one or two in a region, while there are hundreds of sidecars, and a
former leader that cannot reach PostgreSQL still sees Redis. Alerts take the largest value of a node.

The forecast is made here and not by Prometheus' `predict_linear`, which fits by least squares: one import, flush or resharding
within its window tips that line for as long as the window lasts. The median of the slopes between all pairs of samples (Theil
and Sen) follows neither a jump nor the hours of a day. The price: a relay that has just started has no forecast for an hour.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

from cache_sidecar.core import telemetry
from cache_sidecar.tiers.redis.cluster import RedisNodes, host_port

# Seconds between two samples; of the window for which they are kept; and that they have to span before there is a forecast.
EVERY, WINDOW, ENOUGH = 60.0, 86_400.0, 3600.0
# Samples that the slope is computed from, spread over the window: 1,770 pairs, half a millisecond.
FITTED = 60
DAY = 86_400.0
# Beyond so many days there is no forecast: the growth is noise.
FAR = 3650.0


class Sample(NamedTuple):
    """The memory of a node at a time."""

    time: float
    "In monotonic seconds."
    used: int
    "Bytes."


class NodeMemory(NamedTuple):
    """The memory of a node now; sizes in bytes."""

    used: int
    limit: int
    "`maxmemory`; 0 if there is none."
    evicted: int
    "Keys evicted to make room since the server started."
    growth: float | None
    "Per day; None if it has not been measured for long enough."

    @property
    def days_left(self) -> float | None:
        """Days until it is full; None if it has no limit, does not grow, or is not known to."""
        if not self.limit or self.growth is None or self.growth <= 0:
            return None
        days = max(0, self.limit - self.used) / self.growth
        return days if days <= FAR else None


class RedisMemory:
    """Measures the nodes of one region."""

    def __init__(
        self,
        nodes: RedisNodes,
        *,
        enough: float = ENOUGH,
        window: float = WINDOW,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """There is a forecast once samples span `enough` seconds; they are kept for `window` seconds."""
        self._nodes = nodes
        self._enough = enough
        self._window = window
        self._monotonic = monotonic
        self._samples: dict[str, deque[Sample]] = {}
        self._policies: dict[str, str] = {}
        "The eviction policy of each node, as it was last logged."
        self.now: Mapping[str, NodeMemory] = {}
        "By host:port; the primaries that answered the last time."

    async def look(self) -> None:
        """Measures all primaries. Raises TierFailed when it is not known which there are."""
        replies = await self._nodes.ask_all([("INFO", "memory"), ("INFO", "stats")])
        self.now = {
            host_port(address): self._measure(host_port(address), _fields(memory) | _fields(stats))
            for address, (memory, stats) in replies.items()
            if isinstance(memory, bytes) and isinstance(stats, bytes)
        }
        members = {host_port(address) for address in replies}
        for gone in self._samples.keys() - members:
            del self._samples[gone]
            self._policies.pop(gone, None)

    def _measure(self, node: str, fields: Mapping[str, str]) -> NodeMemory:
        now, used, limit = self._monotonic(), int(fields["used_memory"]), int(fields.get("maxmemory", 0))
        samples = self._samples.setdefault(node, deque())
        samples.append(Sample(now, used))
        while now - samples[0].time > self._window:
            samples.popleft()
        self._note_policy(node, limit, fields.get("maxmemory_policy", ""))
        is_enough = now - samples[0].time >= self._enough
        growth = slope(samples) * DAY if is_enough else None
        return NodeMemory(used, limit, int(fields.get("evicted_keys", 0)), growth)

    def _note_policy(self, node: str, limit: int, policy: str) -> None:
        """Logs, once until it changes, a policy under which a full node loses what it must keep."""
        found = policy if limit else ""
        if self._policies.get(node, "") != found:
            self._policies[node] = found
            if found.startswith("allkeys"):
                telemetry.log.warning(
                    "a full Redis may evict user events, watermarks and counters of invalidations",
                    which=node,
                    policy=found,
                    better="volatile-lru",
                )


def slope(samples: Sequence[Sample] | deque[Sample]) -> float:
    """Returns the bytes per second by which samples grow: the median over pairs of at most FITTED of them."""
    step = max(1, -(-len(samples) // FITTED))
    fitted = [*samples][::-1][::step]  # the newest one is always among them
    slopes = [
        (one.used - other.used) / (one.time - other.time) for one, other in combinations(fitted, 2) if one.time > other.time
    ]
    return median(slopes) if slopes else 0.0


def _fields(reply: Any) -> dict[str, str]:
    """Returns what INFO says."""
    return dict(line.partition(":")[::2] for line in reply.decode().splitlines()) if isinstance(reply, bytes) else {}
