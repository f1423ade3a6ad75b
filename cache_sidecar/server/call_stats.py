"""Counts calls by method, result and duration."""

import time
from bisect import bisect_left
from collections import Counter
from typing import Any, NamedTuple

from cache_sidecar.core import tracing

# Upper bounds of the buckets of durations, in seconds: from a hit of the native engine to the longest deadline that is common.
_MICROSECONDS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000)
BOUNDS = (*(one / 1e6 for one in _MICROSECONDS), 1.0, 2.5, 5.0, 10.0)
# A trace id is looked for in the metadata of calls that took so many seconds, of which that is a small part, and of one in so
# many others.
SLOW, ONE_IN = 0.001, 16


class Exemplar(NamedTuple):
    """A call whose trace was sampled."""

    trace_id: str
    seconds: float
    time: float
    "When it ended, in seconds since the epoch."


class CallStats:
    """The counts of one method since the start."""

    __slots__ = ("buckets", "codes", "exemplars", "reasons", "seconds")

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()
        "Calls by the number of their status code."
        self.reasons: Counter[str] = Counter()
        "Failed calls by the reason in their ErrorInfo."
        self.buckets = [0] * (len(BOUNDS) + 1)
        "Calls by duration: one bucket for each bound, and one for what is above the last."
        self.seconds = 0.0
        "The sum of their durations."
        self.exemplars: dict[int, Exemplar] = {}
        "The last call with a sampled trace in each bucket that has one."

    def record(self, code: int, seconds: float | None = None, context: Any = None) -> None:
        """Counts a call that has ended; `seconds` is its duration, None for a stream, and `context` has its metadata."""
        self.codes[code] += 1
        if seconds is None:
            return
        bucket = bisect_left(BOUNDS, seconds)
        self.buckets[bucket] += 1
        self.seconds += seconds
        if (seconds >= SLOW or self.buckets[bucket] % ONE_IN == 1) and context is not None:
            # Of a trace that begins here, the caller's metadata say nothing.
            span = tracing.current()
            trace_id = span.trace_id if span is not None else find_trace(context, is_sampled=True)
            if trace_id:
                self.exemplars[bucket] = Exemplar(trace_id, seconds, time.time())


def find_header(context: Any, name: str) -> str | None:
    """Returns the value of a text in a call's metadata that occurs once; None without any, and with several."""
    if (header := getattr(context, "header", None)) is not None:
        value: str | None = header(name)  # the native engine looks for it without making Python's objects of all others
        return value
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def find_trace(context: Any, *, is_sampled: bool = False) -> str:
    """Returns the id of a call's trace, or an empty string; with `is_sampled` only if its caller samples it."""
    traceparent = find_header(context, "traceparent")
    parent = tracing.parse(traceparent) if traceparent else None
    return parent.trace_id if parent is not None and (parent.is_sampled or not is_sampled) else ""
