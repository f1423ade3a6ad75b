"""What one sidecar says of itself, by gRPC or at `/metrics`: counters since its start, and what is so now."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics import reading
from cache_sidecar.metrics.definitions import Metric
from cache_sidecar.terminal.status import Status
from cache_sidecar.tiers.ports import PARTITIONS

Samples = Mapping[str, Mapping[tuple[str, ...], float]]


class Figures(NamedTuple):
    """Times are in seconds."""

    version: str
    engine: str
    policy_version: int
    reads: int
    "Reads that any tier answered."
    cached: int
    "Those of them that PostgreSQL did not answer."
    errors: int
    "Operations of tiers that failed."
    l1_bytes: int
    l1_max_bytes: int
    delay: float | None
    "Of invalidations; None if it was not measured."
    lag: float
    "The most that a relay is behind."
    problems: list[str]
    "What fails, one line each."


def of_status(status: Status) -> Figures:
    """Returns the figures in a reply of GetStats."""
    me, counts = status.stats.sidecar, status.counts().values()
    return Figures(
        version=me.version,
        engine=me.engine,
        policy_version=status.stats.policy.version,
        reads=sum(one.reads for one in counts),
        cached=sum(one.l1 + one.l2 for one in counts),
        errors=sum(one.errors for one in counts),
        l1_bytes=sum(one.bytes for one in counts),
        l1_max_bytes=me.l1_max_bytes,
        delay=me.invalidation_delay.ToNanoseconds() / 1e9 if me.HasField("invalidation_delay") else None,
        lag=max((lag.ToNanoseconds() / 1e9 for lag in me.relay_lags.values()), default=0.0),
        problems=status.problems(),
    )


def of_metrics(text: str) -> Figures:
    """Returns the figures in metrics, in Prometheus' text format. Raises ServerUnreachable if they are not a sidecar's."""
    try:
        return _figures(parse(text))
    except (ValueError, IndexError) as error:
        # Labels or values that our metrics do not have. Whoever can label a pod decides what is read here.
        raise ServerUnreachable(f"what it serves at /metrics is not as a sidecar's: {error}") from None


def _figures(samples: Samples) -> Figures:

    def sum_of(metric: Metric, chosen: Callable[[tuple[str, ...]], bool] = lambda _: True) -> float:
        return sum(value for labels, value in samples.get(metric.sample_name, {}).items() if chosen(labels))

    process, version, engine = next(iter(samples.get(d.BUILD.name, {("", "", "")})), ("", "", ""))[:3]
    if process != d.Process.SIDECAR:
        raise ServerUnreachable("what it serves at /metrics is not a sidecar's")
    fresh = int(sum_of(d.FEED_PARTITIONS))
    failing = sorted(labels for labels, value in samples.get(d.FAILING.name, {}).items() if value)
    problems = [f"{what} {which}".rstrip() for what, which in failing]
    if fresh < PARTITIONS and not any(what == "invalidations" for what, _ in failing):
        problems.append(f"invalidations: only those of {fresh} of {PARTITIONS} partitions are known to be received")
    delays = samples.get(d.INVALIDATION_DELAY.name, {})
    return Figures(
        version=version,
        engine=engine,
        policy_version=int(sum_of(d.POLICY_VERSION)),
        reads=int(sum_of(d.HITS)),
        cached=int(sum_of(d.HITS, lambda labels: labels[1] != "store")),
        errors=int(sum_of(d.TIER_ERRORS)),
        l1_bytes=int(sum_of(d.L1_BYTES)),
        l1_max_bytes=int(sum_of(d.L1_LIMIT)),
        delay=max(delays.values(), default=None),
        lag=max(samples.get(d.RELAY_LAG.name, {}).values(), default=0.0),
        problems=problems,
    )


def parse(text: str) -> Samples:
    """Returns the samples of metrics by their names, and the values of their labels. Raises ValueError for NaN and the like."""
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for name, labels, said in reading.samples(text):
        value = float(said)
        if not abs(value) <= reading.MAX_VALUE:
            raise ValueError(f"{name} is {value:g}")
        found[name][tuple(one for _, one in labels)] = value
    return found


def as_json(figures: Figures) -> dict[str, Any]:
    """Returns what does not need a look before, for the page."""
    return {
        "version": figures.version,
        "engine": figures.engine,
        "policy": figures.policy_version,
        "l1": figures.l1_bytes / figures.l1_max_bytes if figures.l1_max_bytes else None,
        "delay": figures.delay,
        "lag": figures.lag,
        "problems": figures.problems,
    }
