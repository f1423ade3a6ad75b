"""What the injector counts, and its metrics."""

from bisect import bisect_left
from collections import Counter

from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics import process
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.metrics.exposition import Distribution, Families

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.5)


class Metrics:
    """The counts of one injector since its start."""

    def __init__(self) -> None:
        self.admissions: Counter[tuple[str, str]] = Counter()
        "Reviews by outcome and reason."
        self.failures: Counter[str] = Counter()
        "Failures of background work, by its name."
        self.missing: dict[str, int] = {}
        "Pods without a sidecar now, by namespace."
        self.evictions: Counter[str] = Counter()
        "By outcome."
        self.certificate_expiry = 0.0
        "Expiry of the served certificate in seconds since the epoch; 0 without one."
        self.collections = Collections()
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0

    def record_review(self, outcome: str, reason: str, seconds: float) -> None:
        """Counts a review that was answered in so many seconds."""
        self.admissions[outcome, reason] += 1
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Families:
        """Yields all metrics with their values now."""
        yield d.ADMISSIONS, dict(self.admissions.items())
        yield d.ADMISSION_SECONDS, {(): Distribution(_BOUNDS, self._buckets, self._seconds)}
        yield d.INJECTOR_FAILURES, {(work,): count for work, count in self.failures.items()}
        yield d.PODS_MISSING, {(namespace,): count for namespace, count in self.missing.items()}
        yield d.POD_EVICTIONS, {(outcome,): count for outcome, count in self.evictions.items()}
        if self.certificate_expiry:
            yield d.CERTIFICATE_EXPIRY, {("webhook",): self.certificate_expiry}
        yield from process.collect(Process.INJECTOR, self.collections)
