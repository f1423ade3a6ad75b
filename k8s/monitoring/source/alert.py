"""What an alert consists of: its rule, its page in the runbook, and the story by which promtool tests it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.metrics.definitions import Metric

PAGE, TICKET = "page", "ticket"


class Story(NamedTuple):
    """Series of an hour or more, a sample a minute, with what the alert has to do meanwhile."""

    series: Mapping[str, str]
    "promtool's values by series, such as `0+0x10 1+0x20`."
    firing: Sequence[str]
    "Times at which it fires, such as `15m`."
    quiet: Sequence[str]
    "Times at which it does not, before and after."


class Alert(NamedTuple):
    """An alert, with everything that is generated from it."""

    name: str
    "Without the prefix `CacheSidecar`."
    expr: str
    lasts: str
    "How long the expression has to hold before it fires."
    severity: str
    summary: str
    "One line, a template of Prometheus."
    effect: str
    "What callers notice."
    look: Mapping[str, str]
    "What to look at: commands by what they show."
    act: Sequence[str]
    "What to do."
    story: Story


def name(metric: Metric, suffix: str = "") -> str:
    """Returns a metric's name in queries; the suffix is one of a histogram, such as `_bucket`."""
    return metric.sample_name + suffix


def series(metric: Metric, suffix: str = "", **labels: str) -> str:
    """Returns a series of a metric, as promtool writes it."""
    pairs = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name(metric, suffix)}{{{pairs}}}"


def bad_from_ten_to_thirty(metric: Metric, good: str = "0", bad: str = "1", **labels: str) -> dict[str, str]:
    """Returns a gauge that is good for ten minutes, bad for twenty, and good again."""
    return {series(metric, **labels): f"{good}+0x9 {bad}+0x19 {good}+0x40"}


def bad_from_ten_to_fifty(metric: Metric, good: str = "0", bad: str = "1", **labels: str) -> dict[str, str]:
    """The same for an alert that waits for long."""
    return {series(metric, **labels): f"{good}+0x9 {bad}+0x39 {good}+0x40"}


def rise_from_ten_to_thirty(metric: Metric, rate: int = 60, **labels: str) -> dict[str, str]:
    """Returns a counter that stays at 0 for ten minutes, rises for twenty, and then stays."""
    return {series(metric, **labels): f"0+0x9 {rate}+{rate}x19 {20 * rate}+0x60"}
