"""What the injector counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.5)


class Metrics:
    """All metrics of one injector, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.admissions = Counter(
            "cache_sidecar_injector_admissions",
            "Pods by what was done: injected, skipped (reason says why), denied, or error for what was no review.",
            ["outcome", "reason"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "cache_sidecar_injector_admission_seconds", "Time to answer a review.", buckets=_BUCKETS, registry=self._registry
        )
        self.certificate_expiry = Gauge(
            "cache_sidecar_injector_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires.",
            registry=self._registry,
        )
        self.failures = Counter(
            "cache_sidecar_injector_failures",
            "Work in the background that failed and is tried again: certificates, events, reconcile, version.",
            ["work"],
            registry=self._registry,
        )
        self.missing = Gauge(
            "cache_sidecar_injector_pods_without_sidecar",
            "Pods that should have a sidecar and have none.",
            ["namespace"],
            registry=self._registry,
        )
        self.evictions = Counter(
            "cache_sidecar_injector_evictions",
            "Pods without a sidecar that were evicted; refused ones are those that a disruption budget holds.",
            ["outcome"],
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Returns them all, as Prometheus reads them."""
        return generate_latest(self._registry)
