"""The service level objectives, and how fast their error budgets may burn.

An objective has two recorded series, each a rate or a share: what was bad, and all. The ratio over a window is made of those
recorded values, so that three days cost a query a few series and not every counter of every sidecar. Alerts need two windows
each: the long one says that it matters, the short one that it still goes on.
https://sre.google/workbook/alerting-on-slos/
"""

from typing import NamedTuple

from alert import name

from cache_sidecar.metrics import definitions as d

FAILED_CODES = "UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
SLOW_SECONDS = "0.025"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


class Objective(NamedTuple):
    """A service level objective over 30 days."""

    name: str
    share: float
    "Of what has to be good."
    says: str
    bad: str
    "The recorded series of what is bad."
    all: str
    "The recorded series of everything."
    bad_expr: str
    all_expr: str

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.share, 6)

    def ratio(self, window: str) -> str:
        """Returns the name of the recorded share of what was bad over a window."""
        return f"{self.bad}:ratio{window}"


class Burn(NamedTuple):
    """A rate at which a budget is spent: of 30 days' budget, `factor` times the long window is gone at its end."""

    factor: float
    long: str
    short: str


FAST = (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))
SLOW = (Burn(3, "1d", "2h"), Burn(1, "3d", "6h"))

AVAILABILITY = Objective(
    "Availability",
    0.999,
    "99.9 % of calls do not fail for a reason of ours or of our servers: none of "
    + ", ".join(FAILED_CODES.split("|"))
    + ". A caller's own short deadline counts, too.",
    "cache_sidecar:calls_failed",
    "cache_sidecar:calls",
    f'(sum(rate({name(d.CALLS)}{{code=~"{FAILED_CODES}"}}[5m])) or vector(0))',
    f"sum(rate({name(d.CALLS)}[5m]))",
)
LATENCY = Objective(
    "Latency",
    0.99,
    f"99 % of unary calls take less than {float(SLOW_SECONDS) * 1000:g} ms in the sidecar.",
    "cache_sidecar:calls_slow",
    "cache_sidecar:calls_timed",
    f"sum(rate({name(d.CALL_SECONDS, '_count')}[5m]))"
    f' - sum(rate({name(d.CALL_SECONDS, "_bucket")}{{le="{SLOW_SECONDS}"}}[5m]))',
    f"sum(rate({name(d.CALL_SECONDS, '_count')}[5m]))",
)
FRESHNESS = Objective(
    "Freshness",
    0.999,
    "99.9 % of the time, counted by partition and sidecar, invalidations are received and the relay is within "
    "`staleness_bound`: replies are neither marked stale nor read past memory.",
    "cache_sidecar:partitions_stale",
    "cache_sidecar:partitions",
    # A partition that is both counts once: the larger of the two numbers.
    f"sum(max by (job, instance) (256 - {name(d.FEED_PARTITIONS)} or {name(d.LAGGING)}))",
    f"256 * count({name(d.FEED_PARTITIONS)})",
)
ALL = (AVAILABILITY, LATENCY, FRESHNESS)
