"""A comparison: two sides measured alternately, and the verdict."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tests.bench.connection import LoadError
from tests.bench.machine import BusyMeter, Cores
from tests.bench.processes import BenchError, Process, Skipped

TRIES = 2
"Attempts for a comparison whose measurement fails."
NO_WORSE = 0.95
"The goal for two versions: a ratio from here on may be noise."


class Served(Protocol):
    """The result of a load: served calls only, latencies in microseconds."""

    @property
    def calls(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def percentile_us(self, percent: float, /) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One side, in one round."""

    calls_per_second: float
    p50_us: float
    p99_us: float
    cpu_s_per_1000: float
    "CPU seconds of the process under test for 1,000 calls, or milliseconds for one."
    own: float
    "Share of a core that the process under test used; more than 1 if it ran on several."
    load_busy: float
    "Utilization of the load generator's core, 0 to 1: near 1, with `own` lower, the load generator was the bottleneck."
    foreign: float
    "Share of the core under test that other programs used, 0 to 1."


Measure = Callable[[float], Measured]
"""Runs one side for that many seconds."""

By = Literal["calls", "cpu", "p50", "p99"]
"""The unit: calls per second, CPU per call, or the median or 99th percentile of the latency."""


def ratio(ours: Measured, reference: Measured, by: By) -> float:
    """Returns how many times better ours is."""
    match by:
        case "calls":
            return ours.calls_per_second / reference.calls_per_second
        case "cpu":
            return reference.cpu_s_per_1000 / ours.cpu_s_per_1000
        case "p50":
            return reference.p50_us / ours.p50_us
        case "p99":
            return reference.p99_us / ours.p99_us


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One of our operations and its reference."""

    name: str
    goal: float
    "The ratio, ours / reference, to reach."
    sides: Callable[[], AbstractContextManager[tuple[Measure, Measure]]]
    "Starts what both sides need; yields ours, then the reference."
    unit: str = "calls/s"
    by: By = "calls"
    "What the ratio is of."


@dataclass(frozen=True, kw_only=True)
class Result:
    """The rounds of a comparison."""

    name: str
    unit: str
    goal: float
    ours: Sequence[Measured]
    reference: Sequence[Measured]
    pinned: bool
    by: By = "calls"

    @property
    def ratios(self) -> list[float]:
        """Returns each round's ratio: both halves of a round run in the same conditions, two rounds may not."""
        return self._ratios(self.by)

    @property
    def cpu_ratio(self) -> float:
        """Returns the same by CPU per call: the ratio if only our own code took time."""
        return statistics.median(self._ratios("cpu"))

    def _ratios(self, by: By) -> list[float]:
        return [ratio(ours, reference, by) for ours, reference in zip(self.ours, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """Returns the median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Returns whether the goal is reached."""
        return self.ratio >= self.goal

    def entry(self) -> dict[str, object]:
        """Returns the entry in bench.json."""
        return {
            "name": self.name,
            "unit": self.unit,
            "by": self.by,
            "ours": round(median(self.ours, "calls_per_second"), 1),
            "reference": round(median(self.reference, "calls_per_second"), 1),
            "ratio": round(self.ratio, 4),
            "goal": self.goal,
            "rounds": len(self.ratios),
            "met": self.is_met,
            "ratios": [round(ratio, 4) for ratio in self.ratios],
            "cpu_ratio": round(self.cpu_ratio, 4),
            "pinned": self.pinned,
            **{f"ours_{name}": round(median(self.ours, name), 4) for name in DETAILS},
            **{f"reference_{name}": round(median(self.reference, name), 4) for name in DETAILS},
        }


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """A comparison that cannot be made here, or whose measurement failed in every attempt."""

    name: str
    unit: str
    goal: float
    by: By
    reason: str
    is_skipped: bool = False
    "Whether what it needs is not installed."

    def entry(self) -> dict[str, object]:
        """Returns the entry in bench.json: no figures, and the reason."""
        nothing = {"ours": None, "reference": None, "ratio": None, "rounds": 0, "met": False}
        return {"name": self.name, "unit": self.unit, "by": self.by, "goal": self.goal, **nothing, "error": self.reason}


DETAILS = ("p50_us", "p99_us", "cpu_s_per_1000", "own", "load_busy", "foreign")


def median(rounds: Sequence[Measured], name: str) -> float:
    """Returns the median of one of the figures."""
    return float(statistics.median(getattr(measured, name) for measured in rounds))


def attempt(
    comparison: Comparison, *, rounds: int, seconds: float, pinned: bool, tell: Callable[[str], None]
) -> Result | Unmeasured:
    """Does as `compare`; a failure is retried with restarted servers, and then reported in place of figures.

    On a busy machine the freshness lease of a sidecar's memory may expire for a moment, so that a reply comes from the store
    instead. That has no bearing on the other comparisons, and must not end them.
    """
    reason = ""
    for _ in range(TRIES):
        try:
            return compare(comparison, rounds=rounds, seconds=seconds, pinned=pinned, tell=tell)
        except Skipped as error:
            how = {"name": comparison.name, "unit": comparison.unit, "goal": comparison.goal, "by": comparison.by}
            return Unmeasured(**how, reason=str(error), is_skipped=True)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this comparison's
            reason = str(error) if isinstance(error, BenchError | LoadError) else f"{type(error).__name__}: {error}"
            tell(f"{comparison.name}: {reason}")
    return Unmeasured(name=comparison.name, unit=comparison.unit, goal=comparison.goal, by=comparison.by, reason=reason)


def versus(ours: Comparison, base: Comparison) -> Comparison:
    """Returns a comparison of our sides of two comparisons, without their references."""

    @contextmanager
    def sides() -> Iterator[tuple[Measure, Measure]]:
        with ours.sides() as (measure, _), base.sides() as (measure_base, _):
            yield measure, measure_base

    return replace(ours, sides=sides, goal=NO_WORSE)


def compare(comparison: Comparison, *, rounds: int, seconds: float, pinned: bool, tell: Callable[[str], None]) -> Result:
    """Measures both sides alternately, in changing order, after a short warm-up round."""
    ours: list[Measured] = []
    reference: list[Measured] = []
    with comparison.sides() as (measure_ours, measure_reference):
        turns = [(measure_ours, ours), (measure_reference, reference)]
        tell(f"{comparison.name}: warming up")
        for measure, _ in turns:
            measure(min(seconds, 0.5))
        for number in range(rounds):
            tell(f"{comparison.name}: round {number + 1} of {rounds}")
            for measure, results in turns if number % 2 == 0 else reversed(turns):
                results.append(measure(seconds))
    return Result(
        name=comparison.name,
        unit=comparison.unit,
        goal=comparison.goal,
        ours=ours,
        reference=reference,
        pinned=pinned,
        by=comparison.by,
    )


def measured(load: Callable[[], Served], *, process: Process, cores: Cores | None) -> Measured:
    """Runs a load against a process, or inside it, and measures its cost."""
    busy, cpu = BusyMeter(), process.cpu_seconds()
    served = load()
    used, shares = process.cpu_seconds() - cpu, busy.read()
    return Measured(
        calls_per_second=served.calls / served.seconds,
        p50_us=served.percentile_us(50),
        p99_us=served.percentile_us(99),
        cpu_s_per_1000=used / served.calls * 1000,
        own=used / served.seconds,
        load_busy=shares[cores.load] / served.seconds if cores else 0.0,
        foreign=max(0.0, shares[cores.server] - used) / served.seconds if cores else 0.0,
    )
