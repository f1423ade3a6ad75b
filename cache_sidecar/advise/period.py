"""The metrics of a period: from the sidecars themselves, or from a Prometheus that scrapes them."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics.definitions import Metric
from cache_sidecar.metrics.reading import MAX_VALUE, Labels, samples

# What is read.
COUNTERS = (
    d.HITS,
    d.MISSES,
    d.LOADS,
    d.BATCHES,
    d.EARLY_REFRESHES,
    d.EVICTIONS,
    d.SHADOW_MISMATCHES,
    d.INSPECTIONS,
    d.SIMULATED_READS,
    d.SIMULATED_HITS,
    d.SIMULATED_REFRESHES,
    d.SIMULATED_OUTDATED,
    d.SIMULATED_LOADS,
)
GAUGES = (d.L1_BYTES, d.L1_ENTRIES, d.L1_LIMIT, d.SIMULATED_KEYS, d.SIMULATED_SHARE, d.POLICY_VALUE)
# Seconds until a server goes on with its answer, and until it has sent all of it; bytes of it.
TIMEOUT = 10.0
MAX_SECONDS = 30.0
MAX_BYTES = 32 << 20

Values = dict[str, dict[Labels, float]]
"""By the names of the metrics, and by their labels in their order."""


class Period(NamedTuple):
    """What was counted in a period by some sidecars together, and their gauges, averaged over them."""

    seconds: float
    sidecars: int
    counters: Values
    gauges: Values

    def total(self, metric: Metric, **labels: str) -> float:
        """Returns the sum of a counter over all labels that are not given."""
        return sum(value for _, value in _matching(self.counters.get(metric.name, {}), labels))

    def gauge(self, metric: Metric, **labels: str) -> float | None:
        """Returns the sum of a gauge over all labels that are not given; None if there is none."""
        found = [value for _, value in _matching(self.gauges.get(metric.name, {}), labels)]
        return sum(found) if found else None

    def datasets(self) -> Sequence[str]:
        """Returns the datasets that were read, in the order of the metrics."""
        found = dict.fromkeys(dict(labels)["dataset"] for labels in self.counters.get(d.HITS.name, {}))
        return [name for name in found if self.total(d.HITS, dataset=name)]


def _matching(values: Mapping[Labels, float], labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
    wanted = set(labels.items())
    return ((found, value) for found, value in values.items() if wanted <= set(found))


def from_sidecars(urls: Sequence[str], *, seconds: float | None) -> Period:
    """Reads the metrics of sidecars: what they count in so many seconds from now on, or by default since their start.

    Raises ServerUnreachable, and InputError if what answers is no sidecar.
    """
    with ThreadPoolExecutor(len(urls)) as pool:
        before = list(pool.map(_scrape, urls)) if seconds is not None else [Values() for _ in urls]
        if seconds is not None:
            time.sleep(seconds)
        after = list(pool.map(_scrape, urls))
    for url, values in zip(urls, after, strict=True):
        for name in (d.STARTED.name, *(metric.sample_name for metric in (*COUNTERS, *GAUGES))):
            for value in values.get(name, {}).values():
                _check(url, name, value)
    now = time.time()
    lasted = []
    for number, found in enumerate(after):
        started = _start_of(found)
        if _start_of(before[number]) != started:
            before[number] = Values()  # it began to count anew meanwhile
        lasted.append(seconds if seconds is not None and before[number] else now - started)
    counters, gauges = Values(), Values()
    for first, last in zip(before, after, strict=True):
        for metric in COUNTERS:
            _add(counters, metric, _difference(first.get(metric.sample_name, {}), last.get(metric.sample_name, {})), 1)
        for metric in GAUGES:
            _add(gauges, metric, last.get(metric.name, {}), 1 / len(urls))
    return Period(max(1e-9, sum(lasted) / len(lasted)), len(urls), counters, gauges)


def _scrape(url: str) -> Values:
    found = Values()
    for name, labels, value in samples(_read(url).decode(errors="replace")):
        try:
            found.setdefault(name, {})[labels] = float(value)
        except ValueError:
            continue  # a page of words, or a metric of somebody else
    if d.BUILD.name not in found or not any(("process", "sidecar") in labels for labels in found[d.BUILD.name]):
        raise InputError(
            f"{url} has no metrics of a sidecar: give the address of its web_address, such as http://HOST:9464/metrics"
        )
    if d.SIMULATED_READS.sample_name not in found:
        raise InputError(f"{url} is a sidecar of an earlier version, without the figures for advice")
    return found


def _check(url: str, name: str, value: float) -> None:
    """Raises InputError for what no sidecar counts or measures: advice on it would be nonsense to be pasted into a policy."""
    if not 0 <= value <= MAX_VALUE:
        raise InputError(f"{url} says that {name} is {value:g}, which no sidecar does")


def _start_of(values: Values) -> float:
    return next(iter(values.get(d.STARTED.name, {(): 0.0}).values()))


def _difference(before: Mapping[Labels, float], after: Mapping[Labels, float]) -> dict[Labels, float]:
    return {labels: value - before.get(labels, 0.0) for labels, value in after.items()}


def _add(to: Values, metric: Metric, values: Mapping[Labels, float], weight: float) -> None:
    total = to.setdefault(metric.name, {})
    for labels, value in values.items():
        total[labels] = total.get(labels, 0.0) + weight * value


def from_prometheus(url: str, *, period: str, match: str) -> Period:
    """Asks a Prometheus for what its sidecars counted in a period up to now, such as `1d`; `match` selects some, `pod=~"a-.+"`.

    Raises ServerUnreachable, and InputError for what Prometheus does not understand, or does not have.
    """
    seconds = _seconds(period)
    ours = ",".join(one for one in (match, 'process="sidecar"') if one)
    sidecars = sum(value for _, value in _ask(url, f"count({d.BUILD.name}{{{ours}}})"))
    if not sidecars:
        raise InputError(f"the Prometheus at {url} scrapes no sidecar" + (f" with {match}" if match else ""))
    counters, gauges = Values(), Values()
    for metric in COUNTERS:
        labels = ", ".join(metric.labels)
        expr = f"sum by ({labels}) (increase({metric.sample_name}{{{match}}}[{period}]))"
        counters[metric.name] = dict(_ask(url, expr, metric.labels))
    for metric in GAUGES:
        labels = ", ".join(metric.labels)
        gauges[metric.name] = dict(_ask(url, f"avg by ({labels}) ({metric.name}{{{match}}})", metric.labels))
    return Period(seconds, round(sidecars), counters, gauges)


def _ask(url: str, expr: str, labels: Iterable[str] = ()) -> Iterator[tuple[Labels, float]]:
    """Yields the labels, in this order, and values of an instant query."""
    base = url.rstrip("/")
    try:
        reply = json.loads(_read(f"{base}/api/v1/query?{urlencode({'query': expr})}"))
        if reply["status"] != "success":
            raise InputError(f"the Prometheus at {url}: {reply.get('error', 'failed without a reason')}")
        found: list[dict[str, Any]] = reply["data"]["result"]
        for one in found:
            value = float(one["value"][1])
            _check(url, expr, value)
            yield tuple((name, one["metric"].get(name, "")) for name in labels), value
    except (ValueError, KeyError, TypeError, IndexError):
        raise InputError(f"{url} does not answer as a Prometheus does") from None


def _seconds(period: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
    parts = re.fullmatch(r"(\d+)([smhdw])", period)
    if parts is None or not int(parts[1]):
        raise InputError(f"--period {period!r} is not a period of Prometheus, such as 90m, 12h or 7d")
    return float(parts[1]) * units[parts[2]]


def _read(url: str) -> bytes:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise InputError(f"{url!r} is not a URL: it has to begin with http:// or https://")
    try:
        with urlopen(url, timeout=TIMEOUT) as reply:  # noqa: S310  # the scheme was checked
            return _body(reply, url)
    except HTTPError as error:
        body = error.read(MAX_BYTES)
        if error.headers.get_content_type() == "application/json":
            return body  # Prometheus says there what it does not understand
        kind = ServerUnreachable if error.code >= 500 else InputError
        raise kind(f"{url} answers {error.code} {error.reason}") from None
    except HTTPException as error:
        raise InputError(f"{url} does not speak HTTP as a server of metrics does: {type(error).__name__}") from None
    except OSError as error:
        raise ServerUnreachable(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
    except ValueError as error:
        raise InputError(f"{url!r} is not a URL: {error}") from None


def _body(reply: HTTPResponse, url: str) -> bytes:
    """Returns at most MAX_BYTES. TIMEOUT is for each read, which a server that sends a byte now and then never exceeds."""
    deadline = time.monotonic() + MAX_SECONDS
    body = bytearray()
    while len(body) < MAX_BYTES and (more := reply.read1(1 << 16)):
        body += more
        if time.monotonic() > deadline:
            raise ServerUnreachable(f"{url} has not sent its answer within {MAX_SECONDS:.0f} seconds")
    return bytes(body)
