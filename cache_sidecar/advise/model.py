"""From the metrics of a period to what alternatives would do. Pure.

Every figure of today is measured. Those of alternatives are today's, changed by what the simulation in the sidecars says about
the difference (`tiers/memory/reuse.py`); so what it leaves out is left out on both sides. README.md has the formulas.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import log2
from typing import NamedTuple

from cache_sidecar.advise.period import Period
from cache_sidecar.metrics import definitions as d
from cache_sidecar.tiers.memory.reuse import SIZES, TTLS

# Sizes, times and rollouts that are shown; the simulation knows more sizes, for what memory that is not LRU corresponds to.
SHOWN_SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
ROLLOUTS = (10.0, 50.0, 100.0)
# Fewer reads say nothing.
MIN_READS = 1000
# Ratios by which LRU memory would have to be larger to hit as often as what is measured: more is not due to eviction.
SMALLEST, LARGEST = 0.5, 8.0


class Outcome(NamedTuple):
    """What a dataset does, or would do. Rates are of all sidecars together, a second; shares are of all its reads."""

    what: str
    l1_hits: float
    l2_hits: float
    redis: float
    "Keys read from Redis."
    statements: float
    "In PostgreSQL, at most: with more keys to read, more of them share a statement."
    bytes: float | None
    "In memory, of one sidecar; None if it is not known."
    oldest: float | None
    "Seconds that an answer may be old if a change is neither published nor noticed; None for no bound."
    outdated: float | None = None
    "Reads in memory that would have been older than the last change if no invalidation had arrived."


class Dataset(NamedTuple):
    """One dataset."""

    name: str
    reads: float
    "A second."
    today: Outcome
    sizes: Mapping[float, Outcome]
    "Alternatives, by their multiples of today."
    l1_ttls: Mapping[float, Outcome]
    l2_ttls: Mapping[float, Outcome]
    rollouts: Mapping[float, Outcome]
    "By percentage; empty where the rollout is complete and answers reads."
    policy: Mapping[str, float]
    slides: bool
    keys: float
    "Ids in the sample of one sidecar, and the share of all ids that it is."
    sample: float
    inspected: tuple[float, float]
    "Hits that were compared with PostgreSQL, and those of them that were older than it."
    mismatches: float
    "In shadow."
    simulated_l1_hits: float
    "Share of the reads in memory: what the simulation says of today, to be compared with what was measured."
    is_enough: bool
    "Whether there were enough reads to say anything."

    def alternatives(self) -> Sequence[Outcome]:
        """Returns all of them, as they are shown."""
        groups = (self.sizes, self.l1_ttls, self.l2_ttls, self.rollouts)
        return [one for group in groups for one in group.values()]


def assess(period: Period, name: str, *, slides: bool) -> Dataset:
    """Returns what a dataset does and would do; `slides`: each use extends the life of a record in Redis."""
    return _Assessment(period, name, slides=slides).dataset()


class _Assessment:
    """The figures of one dataset in the period."""

    def __init__(self, period: Period, name: str, *, slides: bool) -> None:
        self._period, self._name, self._slides = period, name, slides
        self.policy = {key: period.gauge(d.POLICY_VALUE, dataset=name, key=key) or 0.0 for key in d.POLICY_KEYS}
        count = partial(period.total, dataset=name)
        hits, misses = count(d.HITS, tier="l1"), count(d.MISSES, tier="l1")
        self.cached = hits + misses
        "Reads of ids that are rolled out."
        rollout = self.policy["rollout"] / 100
        refreshed = count(d.EARLY_REFRESHES)
        past = max(0.0, count(d.HITS) - self.cached - refreshed)
        if self.policy["shadow"]:
            past = self.cached / rollout if rollout else 0.0
        self.past = past if rollout < 1 or self.policy["shadow"] else 0.0
        "Reads past the caches."
        self.reads = max(1e-9, self.past if self.policy["shadow"] else self.cached + self.past)
        self.l1 = hits / self.cached if self.cached else 0.0
        l2_hits, l2_misses = count(d.HITS, tier="l2"), count(d.MISSES, tier="l2")
        missed = l2_misses / (l2_hits + l2_misses) if l2_hits + l2_misses else 1.0
        self.store = (1 - self.l1) * missed
        "The share of `cached` that PostgreSQL answers."
        self.redis = count(d.LOADS, tier="l2")
        loads, statements = count(d.LOADS, tier="store"), count(d.BATCHES, tier="store")
        self.loads = max(0.0, loads - self.past)
        "Keys loaded from PostgreSQL into the caches."
        self.per_load = statements / loads if loads else 1.0
        self.bytes, self.limit = period.gauge(d.L1_BYTES, dataset=name) or 0.0, period.gauge(d.L1_LIMIT, dataset=name)
        self.is_full = count(d.EVICTIONS) > 0
        self.curve = {size: self._ratio(count(d.SIMULATED_HITS, l1_size=f"{size:g}", l1_ttl="1")) for size in SIZES} or {
            1.0: 0.0
        }

    def _ratio(self, hits: float) -> float:
        """Returns simulated hits as a share of the reads that were simulated."""
        reads = self._period.total(d.SIMULATED_READS, dataset=self._name)
        return min(1.0, hits / reads) if reads else 0.0

    def dataset(self) -> Dataset:
        count, period, name = self._period.total, self._period, self._name
        results = {one: count(d.INSPECTIONS, dataset=name, result=one) for one in ("fresh", "stale", "violation")}
        has_l1 = self.limit is not None and self.policy["l1_enabled"] > 0
        is_rolled_out = self.policy["rollout"] >= 100 and not self.policy["shadow"]
        return Dataset(
            name,
            self.reads / period.seconds,
            self._outcome("today", outdated=self._share_outdated(1.0) if has_l1 else None),
            sizes={size: self._with_size(size) for size in SHOWN_SIZES if size != 1} if has_l1 else {},
            l1_ttls={ttl: self._with_l1_ttl(ttl) for ttl in TTLS if ttl != 1} if has_l1 else {},
            l2_ttls={ttl: self._with_l2_ttl(ttl) for ttl in TTLS if ttl != 1} if self.policy["l2_enabled"] else {},
            rollouts={} if is_rolled_out else {share: self._with_rollout(share) for share in ROLLOUTS},
            policy=self.policy,
            slides=self._slides,
            keys=period.gauge(d.SIMULATED_KEYS, dataset=name) or 0.0,
            sample=period.gauge(d.SIMULATED_SHARE, dataset=name) or 0.0,
            inspected=(sum(results.values()), results["stale"] + results["violation"]),
            mismatches=count(d.SHADOW_MISMATCHES, dataset=name),
            simulated_l1_hits=self.curve[1.0],
            is_enough=self.cached >= MIN_READS,
        )

    def _outcome(
        self,
        what: str,
        *,
        l1: float | None = None,
        redis: float = 1.0,
        loads: float = 1.0,
        bytes: float | None = None,
        ttls: tuple[float, float] = (1.0, 1.0),
        outdated: float | None = None,
    ) -> Outcome:
        """Returns an outcome from the share of `cached` that hits memory, and from factors of today's loads."""
        ratio = self.l1 if l1 is None else min(1.0, max(0.0, l1))
        store = min(self.store * loads, 1 - ratio) if self.policy["l2_enabled"] else 1 - ratio
        is_shadow = bool(self.policy["shadow"])
        share = 0.0 if is_shadow and what == "today" else self.cached / self.reads
        past = self.past if share < 1 else 0.0
        seconds = self._period.seconds
        return Outcome(
            what,
            l1_hits=share * ratio,
            l2_hits=share * max(0.0, 1 - ratio - store),
            redis=self.redis * redis / seconds,
            statements=(self.loads * loads + past) * self.per_load / seconds,
            bytes=self.bytes if bytes is None else bytes,
            oldest=self._oldest(*ttls),
            outdated=outdated,
        )

    def _oldest(self, l1: float, l2: float) -> float | None:
        if self._slides:
            return None
        longest = 1 + self.policy["jitter"]
        in_l1 = self.policy["l1_hard_ttl"] if self.limit is not None and self.policy["l1_enabled"] else 0.0
        in_l2 = self.policy["l2_ttl"] if self.policy["l2_enabled"] else 0.0
        return longest * (l1 * in_l1 + l2 * in_l2)

    def _share_outdated(self, ttl: float) -> float:
        return self._ratio(self._period.total(d.SIMULATED_OUTDATED, dataset=self._name, l1_ttl=f"{ttl:g}"))

    def hits_with_size(self, size: float) -> float:
        """Returns the share of `cached` that would hit an L1 of another size.

        Our L1s choose better than LRU what they keep, and so hit as an LRU memory of another size would: which one, today's hit
        ratio says. The advantage goes as what there is to choose goes: with everything in memory it is none.
        """
        if not self.is_full:
            return min(1.0, max(0.0, self.l1 + at(self.curve, size) - self.curve[1.0]))
        today, most = self._like_lru(), max(self.curve.values())
        left = (most - at(self.curve, size)) / (most - self.curve[1.0]) if most > self.curve[1.0] else 0.0
        like = 1 + (today - 1) * left
        return min(1.0, max(0.0, self.l1 + at(self.curve, like * size) - at(self.curve, today)))

    def _like_lru(self) -> float:
        """Returns how many times as large an LRU memory would have to be to hit as often as L1 did."""
        for (small, low), (large, high) in pairwise(sorted(self.curve.items())):
            if low <= self.l1 <= high and low < high:
                found = small * 2 ** (log2(large / small) * (self.l1 - low) / (high - low))
                return float(min(LARGEST, max(SMALLEST, found)))
        return 1.0

    def _with_size(self, size: float) -> Outcome:
        ratio = self.hits_with_size(size)
        limit = (self.limit or 0.0) * size
        bytes = limit if self.is_full else min(self.bytes, limit)
        factor = self._redis_factor(1 - ratio, self._refreshes(size, 1.0))
        loads = factor if not self.policy["l2_enabled"] else 1.0
        return self._outcome(f"l1_max_bytes x {size:g}", l1=ratio, redis=factor, loads=loads, bytes=bytes)

    def _with_l1_ttl(self, ttl: float) -> Outcome:
        hits = self._period.total(d.SIMULATED_HITS, dataset=self._name, l1_size="1", l1_ttl=f"{ttl:g}")
        ratio = min(1.0, max(0.0, self.l1 + self._ratio(hits) - self.curve[1.0]))
        factor = self._redis_factor(1 - ratio, self._refreshes(1.0, ttl))
        loads = factor if not self.policy["l2_enabled"] else 1.0
        what = f"l1 TTLs x {ttl:g}"
        return self._outcome(what, l1=ratio, redis=factor, loads=loads, ttls=(ttl, 1.0), outdated=self._share_outdated(ttl))

    def _refreshes(self, size: float, ttl: float) -> float:
        count = self._period.total(d.SIMULATED_REFRESHES, dataset=self._name, l1_size=f"{size:g}", l1_ttl=f"{ttl:g}")
        return self._ratio(count)

    def _redis_factor(self, missed: float, refreshed: float) -> float:
        """Returns by which factor the reads of Redis change, if memory misses and refreshes so many of `cached`."""
        today = 1 - self.l1 + self._refreshes(1.0, 1.0)
        return (missed + refreshed) / today if today > 0 else 1.0

    def _with_l2_ttl(self, ttl: float) -> Outcome:
        """Only keys that Redis held before can be held for longer: loads of new ones stay."""
        count, name = self._period.total, self._name
        now = count(d.SIMULATED_LOADS, dataset=name, l2_ttl="1")
        then = count(d.SIMULATED_LOADS, dataset=name, l2_ttl=f"{ttl:g}")
        again = min(self.loads, now) if now else 0.0
        loads = self.loads + (again * (then / now - 1) if now else then)
        factor = loads / self.loads if self.loads else 1.0
        return self._outcome(f"l2_ttl x {ttl:g}", loads=factor, ttls=(1.0, ttl))

    def _with_rollout(self, percentage: float) -> Outcome:
        """Keys are chosen by a hash, so those that are rolled out later are read like the others."""
        share, present = percentage / 100, self.policy["rollout"] / 100
        if not present:
            return self._outcome(f"rollout = {percentage:g}, shadow = false")
        ratio = self.hits_with_size(present / share)
        grown, seconds = share / present, self._period.seconds
        store = min(self.store, 1 - ratio) if self.policy["l2_enabled"] else 1 - ratio
        past = self.reads * (1 - share)
        limit = self.limit or 0.0
        return Outcome(
            f"rollout = {percentage:g}" + (", shadow = false" if self.policy["shadow"] else ""),
            l1_hits=share * ratio,
            l2_hits=share * max(0.0, 1 - ratio - store),
            redis=self.redis * grown / seconds,
            statements=(self.loads * grown + past) * self.per_load / seconds,
            bytes=min(limit, self.bytes * grown),
            oldest=self._oldest(1.0, 1.0),
        )


def at(curve: Mapping[float, float], size: float) -> float:
    """Returns the hit ratio at a size, between the sizes of a curve in proportion to the logarithm of the size."""
    sizes = sorted(curve)
    size = min(sizes[-1], max(sizes[0], size))
    for small, large in pairwise(sizes):
        if size <= large:
            part = log2(size / small) / log2(large / small)
            return curve[small] + part * (curve[large] - curve[small])
    return curve[sizes[-1]]


def hits_of_all(period: Period, names: Sequence[str], size: float) -> float:
    """Returns the share of all reads that would hit memory if all of it were `size` times as large."""
    each = [_Assessment(period, name, slides=False) for name in names]
    shares = [(one.cached, one.hits_with_size(size)) for one in each if one.limit is not None and one.cached >= MIN_READS]
    total = sum(cached for cached, _ in shares)
    return sum(cached * ratio for cached, ratio in shares) / total if total else 0.0
