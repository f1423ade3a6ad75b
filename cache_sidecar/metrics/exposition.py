"""Renders metrics as text: for Prometheus (text format 0.0.4), and in OpenMetrics 1.0.

Written by hand, because a scrape runs on the event loop: 1,000 series take 0.4 ms here, in prometheus_client's collectors 4 ms.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats, https://github.com/prometheus/OpenMetrics.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import add
from types import MappingProxyType
from typing import NamedTuple

from cache_sidecar.metrics.definitions import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Distribution(NamedTuple):
    """The value of a histogram."""

    bounds: Sequence[float]
    "The upper bounds of the buckets; the last bucket has none."
    counts: Sequence[int]
    "In each bucket, one more than there are bounds."
    sum: float
    exemplars: Mapping[int, tuple[str, float, float]] = MappingProxyType({})
    "By the number of their bucket: the id of a trace, the value, and its time in seconds since the epoch."

    def plus(self, counts: Sequence[int], sum: float) -> "Distribution":
        """Returns it with other values of the same bounds added."""
        total = [one + other for one, other in zip(self.counts, counts, strict=True)]
        return self._replace(counts=total, sum=self.sum + sum)


Value = float | Distribution
Samples = Mapping[tuple[str, ...], Value]
"""The values of a metric by those of its labels."""
Families = Iterable[tuple[Metric, Samples]]


def with_method(path: str, *more: str) -> tuple[str, ...]:
    """Returns label values that begin with those of a method, `SERVICE/METHOD`."""
    service, _, method = path.rpartition("/")
    return service.removeprefix("/"), method, *more


def render(families: Families, *, openmetrics: bool) -> str:
    """Returns the text of metrics; those without values are left out."""
    return "".join(texts(families, openmetrics=openmetrics))


def texts(families: Families, *, openmetrics: bool) -> Iterator[str]:
    """Yields the text of one metric after the other; those without values are left out."""
    for metric, samples in families:
        if not samples:
            continue
        sample_name = metric.sample_name
        # In OpenMetrics, a counter's family has not the suffix that its samples have.
        family = metric.name if openmetrics else sample_name
        lines = [f"# HELP {family} {metric.help}", f"# TYPE {family} {metric.kind}"]
        if metric.unit and openmetrics:
            lines.insert(0, f"# UNIT {family} {metric.unit}")
        for values, value in samples.items():
            if isinstance(value, Distribution):
                lines += _histogram(metric, values, value, exemplars=value.exemplars if openmetrics else {})
            else:
                lines.append(_beginning(sample_name, metric.labels, values) + _number(value))
        lines.append("")
        yield "\n".join(lines)
    if openmetrics:
        yield "# EOF\n"


def accepts_openmetrics(accept: str) -> bool:
    """Returns whether an Accept header prefers OpenMetrics to the text format."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, _, parameters = part.strip().partition(";")
        if kind.strip().lower() in quality:
            given = re.search(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters)
            weight = float(given[1]) if given else 1.0
            quality[kind.strip().lower()] = max(weight, quality[kind.strip().lower()])
    return quality["application/openmetrics-text"] > 0 and quality["application/openmetrics-text"] >= quality["text/plain"]


def _histogram(
    metric: Metric, values: tuple[str, ...], value: Distribution, *, exemplars: Mapping[int, tuple[str, float, float]]
) -> list[str]:
    totals = list(accumulate(value.counts))
    lines = list(map(add, _buckets(metric.name, metric.labels, values, tuple(value.bounds)), map(repr, totals)))
    for bucket, (trace_id, seconds, time) in exemplars.items():
        lines[bucket] += f' # {{trace_id="{trace_id}"}} {seconds!r} {time!r}'
    lines.append(_beginning(f"{metric.name}_sum", metric.labels, values) + _number(value.sum))
    lines.append(_beginning(f"{metric.name}_count", metric.labels, values) + repr(totals[-1]))
    return lines


# No label has unbounded values, so these keep one scrape's texts for the next.
@lru_cache(maxsize=8192)
def _beginning(name: str, labels: Sequence[str], values: tuple[str, ...]) -> str:
    """Returns a sample's line up to its value."""
    if not labels:
        return f"{name} "
    pairs = (f'{label}="{value.translate(_ESCAPED)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{','.join(pairs)}}} "


@lru_cache(maxsize=512)
def _buckets(name: str, labels: Sequence[str], values: tuple[str, ...], bounds: tuple[float, ...]) -> Sequence[str]:
    """Returns the lines of a histogram's buckets up to their values."""
    return [_beginning(f"{name}_bucket", (*labels, "le"), (*values, bound)) for bound in (*map(repr, bounds), "+Inf")]


def _number(value: float) -> str:
    text = repr(value)
    # Python writes infinity as inf.
    return text if text[-1] != "f" else "+Inf" if value > 0 else "-Inf"
