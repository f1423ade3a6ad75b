"""THE list of metrics: names, labels, units and help. `python -m cache_sidecar.metrics` makes the table in `README.md` from it.

Names follow Prometheus' conventions: base units, `_total` for counters. No label has unbounded values: none is an id, an
address of a caller, or a text that a caller chose.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

PREFIX = "cache_sidecar_"


class Kind(StrEnum):
    """What a metric's values are."""

    COUNTER = "counter"
    "Grows from 0 at the start of the process."
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Process(StrEnum):
    """What serves metrics."""

    SIDECAR = "sidecar"
    RELAY = "relay"
    INJECTOR = "injector"


class Metric(NamedTuple):
    """A metric family."""

    name: str
    "In full, without the suffix of a counter."
    kind: Kind
    labels: Sequence[str]
    help: str
    "One sentence."
    unit: str = ""
    "The last part of the name, if it is a unit."
    processes: Sequence[Process] = (Process.SIDECAR,)
    "Those that serve it."

    @property
    def sample_name(self) -> str:
        """The name of its samples, as queries use it; those of a histogram have further suffixes."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


_RELAY, _INJECTOR, _BOTH = (Process.RELAY,), (Process.INJECTOR,), (Process.SIDECAR, Process.RELAY)
_ALL = tuple(Process)


def _counter(name: str, help: str, *labels: str, by: Sequence[Process] = (Process.SIDECAR,)) -> Metric:
    return Metric(PREFIX + name, Kind.COUNTER, labels, help, "", by)


def _gauge(name: str, help: str, *labels: str, unit: str = "", by: Sequence[Process] = (Process.SIDECAR,)) -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, labels, help, unit, by)


def _histogram(name: str, help: str, *labels: str, by: Sequence[Process] = (Process.SIDECAR,)) -> Metric:
    """Returns one of durations."""
    return Metric(PREFIX + name, Kind.HISTOGRAM, labels, help, "seconds", by)


# Calls
METHOD = ("service", "method")
CALLS = _counter("calls", "Calls by status code, native hits included; a stream counts when it ends.", *METHOD, "code")
CALL_ERRORS = _counter("call_errors", "Calls that failed, by the reason in google.rpc.ErrorInfo.", *METHOD, "reason")
CALL_SECONDS = _histogram(
    "call_duration_seconds",
    "Time in the sidecar of unary calls, from when Python gets the call; of native hits, from when its bytes are read.",
    *METHOD,
)
NATIVE_HITS = _counter("native_hits", "Calls that the native engine answered from memory without Python.", *METHOD)
NATIVE_EVENTS = _counter("native_events", "What else the native engine counts, see `native/src/counters.rs`.", "event")
CALLS_RUNNING = _gauge("calls_in_progress", "Unary calls in progress, without hits in memory.")
CALLS_LIMIT = _gauge("calls_limit", "The setting max_concurrent_calls.")
CALLS_WAITING = _gauge("calls_waiting", "Calls that wait for Python; native engine only.")
SERVICE_CALLS = _gauge(
    "service_calls_in_progress",
    "Unary calls in progress by service, and its priority under overload: vital, normal, or low.",
    "service",
    "priority",
)
CALLS_REFUSED = _counter(
    "calls_refused",
    "Unary calls refused because too many were in progress or waiting, by service and its priority.",
    "service",
    "priority",
)
STREAMS = _gauge("streams_in_progress", "Streams in progress.")
CONNECTIONS = _gauge("connections", "Open connections of clients; native engine only.")

# Stock
OVERSELLS = _counter(
    "oversell_attempts",
    "Attempts to take more pieces than there are, all refused: by admission, which knows what is sold out; by PostgreSQL, to a "
    "reservation or an adjustment; or by a CHECK of the table, the last line of defence, which no program should reach.",
    "by",
    by=_BOTH,
)

# Datasets
HITS = _counter("reads_hit", "Reads that a tier answered, including those answered with `does not exist`.", "dataset", "tier")
MISSES = _counter("reads_missed", "Reads that had to continue with the next tier.", "dataset", "tier")
LOADS = _counter("loads", "Keys read from a tier; one that several callers wait for counts once.", "dataset", "tier")
BATCHES = _counter(
    "load_batches", "Statements in PostgreSQL, and pipelines of Redis, with which these keys were read.", "dataset", "tier"
)
COALESCED = _counter("reads_coalesced", "Reads that shared the load of another caller.", "dataset", "tier")
FILLS = _counter("fills", "Values stored in a tier after a miss.", "dataset", "tier")
EARLY_REFRESHES = _counter(
    "early_refreshes",
    "Refreshes of values before they expired, behind the replies; of Redis, by this sidecar.",
    "dataset",
    "tier",
)
TIER_ERRORS = _counter("tier_errors", "Operations that failed, or that a tier had no time for.", "dataset", "tier")
UNREADABLE = _counter("unreadable", "Records and rows that could not be read.", "dataset", "tier")
NEWER = _counter(
    "versions_newer", "Versions that PostgreSQL does not have: forged, or lost by it. Each is dropped.", "dataset", "tier"
)
UNSIGNED = _counter("records_unsigned", "Records in Redis without a MAC of ours, if MACs are required.", "dataset")
FILLS_REFUSED = _counter(
    "l1_fills_refused", "Values that memory did not take: something newer is known, or may have been missed.", "dataset"
)
EVICTIONS = _counter("l1_evictions", "Values evicted from memory to make room.", "dataset")
L1_ENTRIES = _gauge("l1_entries", "Values in memory.", "dataset")
L1_BYTES = _gauge("l1_bytes", "Size of the values in memory, with overhead.", "dataset", unit="bytes")
L1_LIMIT = _gauge(
    "l1_limit_bytes",
    "What they may have now: its share of the setting l1_max_bytes, less while the container is short of memory.",
    "dataset",
    unit="bytes",
)
SHADOW_COMPARED = _counter("shadow_compared", "Reads in shadow mode that the caches would also have answered.", "dataset")
SHADOW_MISMATCHES = _counter("shadow_mismatches", "Those of them that the caches would have answered differently.", "dataset")
INSPECTIONS = _counter("inspections", "Sampled hits that were compared with PostgreSQL, by result.", "dataset", "result")

# Other sizes and times, simulated on a sample of the ids: see `advise/README.md`. Labels are multiples of today's.
SIMULATED_READS = _counter("simulated_reads", "Reads, as estimated by the sample.", "dataset")
SIMULATED_HITS = _counter(
    "simulated_hits",
    "Those that an LRU memory of this size would answer, with TTLs so many times as long.",
    "dataset",
    "l1_size",
    "l1_ttl",
)
SIMULATED_REFRESHES = _counter("simulated_refreshes", "Refreshes behind these hits.", "dataset", "l1_size", "l1_ttl")
SIMULATED_OUTDATED = _counter(
    "simulated_outdated",
    "Hits that would be older than the last change if no invalidation had arrived: what TTLs alone would bound.",
    "dataset",
    "l1_ttl",
)
SIMULATED_LOADS = _counter(
    "simulated_loads",
    "Keys read before that this sidecar alone would load from PostgreSQL with this TTL in Redis.",
    "dataset",
    "l2_ttl",
)
SIMULATED_KEYS = _gauge("simulated_keys", "Ids in the sample.", "dataset")
SIMULATED_SHARE = _gauge("simulated_share", "Share of all ids that is in the sample.", "dataset")

# User events
EVENTS = _counter(
    "user_events", "Events by where they went: stored in Redis, direct to PostgreSQL, refused, opted out.", "outcome"
)
EVENT_BACKLOG = _gauge("user_events_waiting", "Events in Redis that wait for the relay.")
EVENT_AGE = _gauge("user_events_oldest_seconds", "Age of the oldest of them.", unit="seconds")
COPY_LAG = _gauge(
    "user_events_copy_lag_seconds", "Time since MongoDB had every event; absent where events are not copied.", unit="seconds"
)

# Coherence
FEED_PARTITIONS = _gauge("partitions_fresh", "Partitions, of 256, whose invalidations are known to be received.")
INVALIDATION_DELAY = _gauge(
    "invalidation_delay_seconds",
    "Longest delay, in the last minute, of probe messages sent through each Redis node to this sidecar's subscription.",
    unit="seconds",
)
LAGGING = _gauge("partitions_lagging", "Partitions, of 256, whose replies are marked stale because the relay lags.", "dataset")
RELAY_LAG = _gauge("relay_lag_seconds", "Time since all that is committed was known to be published.", "role", unit="seconds")

# The relay. `roles` are those of a database, such as `catalog, user`.
LEADING = _gauge("relay_leading", "1 while this relay leads, which does the work.", "work", "roles", by=_RELAY)
OUTBOX_CHANGES = _gauge(
    "outbox_changes", "Committed changes that are not published in the region yet; counted up to 100,000.", "roles", by=_RELAY
)
OUTBOX_AGE = _gauge(
    "outbox_age_seconds", "Age of the oldest of them, by PostgreSQL's clock; 0 without any.", "roles", unit="seconds", by=_RELAY
)
PUBLISHED = _counter("relay_changes_published", "Changes that this relay published to Redis.", "roles", by=_RELAY)
PARTITIONS_LACKING = _gauge(
    "relay_partitions_lacking", "Partitions, of 256, that lack changes because Redis refused them.", "roles", by=_RELAY
)
EVENTS_MOVED = _counter("relay_user_events_moved", "User events moved from Redis to PostgreSQL, repeats included.", by=_RELAY)
EVENTS_UNREADABLE = _counter("relay_user_events_unreadable", "Entries in Redis that were no user events.", by=_RELAY)
HOLDS_EXPIRED = _counter("relay_reservations_expired", "Reservations that this relay expired.", by=_RELAY)
HOLDS_STUCK = _counter(
    "relay_reservations_unreleased", "Attempts to expire a reservation whose stock could not be released.", by=_RELAY
)
SESSIONS_PURGED = _counter("relay_sessions_purged", "Rows of ended and expired sessions that were deleted.", by=_RELAY)

REDIS_USED = _gauge("redis_memory_used_bytes", "Memory that a Redis node uses.", "node", unit="bytes", by=_RELAY)
REDIS_LIMIT = _gauge("redis_memory_limit_bytes", "Its maxmemory; absent if it has none.", "node", unit="bytes", by=_RELAY)
REDIS_GROWTH = _gauge(
    "redis_memory_growth_bytes",
    "What it grows by in a day: the median of slopes in the last day; absent in the first hour of a relay.",
    "node",
    unit="bytes",
    by=_RELAY,
)
REDIS_DAYS_LEFT = _gauge(
    "redis_memory_days_left", "Days until it is full, if it goes on like that; absent if it does not grow.", "node", by=_RELAY
)
REDIS_EVICTED = _counter("redis_evicted_keys", "Keys that it evicted to make room since it started.", "node", by=_RELAY)

# The injector
ADMISSIONS = _counter(
    "injector_admissions",
    "Admission reviews by outcome: injected, skipped or denied (see reason), or error for an invalid request.",
    "outcome",
    "reason",
    by=_INJECTOR,
)
ADMISSION_SECONDS = _histogram("injector_admission_seconds", "Time to answer an admission review.", by=_INJECTOR)
INJECTOR_FAILURES = _counter(
    "injector_failures",
    "Failures of background work, which is retried: certificates, events, reconcile, version.",
    "work",
    by=_INJECTOR,
)
PODS_MISSING = _gauge(
    "injector_pods_without_sidecar", "Pods that should have a sidecar but have none.", "namespace", by=_INJECTOR
)
POD_EVICTIONS = _counter(
    "injector_evictions",
    "Evictions of pods without a sidecar; outcome refused: prevented by a disruption budget.",
    "outcome",
    by=_INJECTOR,
)

# Traces
SPANS = _counter(
    "trace_spans",
    "Spans by outcome: exported; failed: the collector did not take them; dropped: too many waited.",
    "outcome",
)

# Dependencies
FAILING = _gauge(
    "dependency_failing", "1 while a dependency fails; see Degradation in admin_service.proto.", "what", "which", by=_BOTH
)
BREAKER_OPEN = _gauge(
    "breaker_open",
    "1 while work for a dependency is refused at once, because it cannot be reached, or not be written.",
    "what",
    "which",
    "problem",
    by=_BOTH,
)
BREAKER_OPENED = _counter("breaker_opened", "How often that began.", "what", "which", "problem", by=_BOTH)
REDIS_RUNNING = _gauge("redis_connections_in_use", "Connections to a Redis node in use.", "node", by=_BOTH)
REDIS_IDLE = _gauge("redis_connections_idle", "Open connections to it that are not in use.", "node", by=_BOTH)
REDIS_SIZE = _gauge(
    "redis_connections_limit", "Maximum of connections to each node: the setting redis_max_connections.", "node", by=_BOTH
)
REDIS_WAITING = _gauge("redis_waiting", "Batches of keys that wait for Redis.")
POSTGRES_RUNNING = _gauge("postgres_connections_in_use", "Connections to PostgreSQL in use.", "role", by=_BOTH)
POSTGRES_IDLE = _gauge("postgres_connections_idle", "Open connections to PostgreSQL that are not in use.", "role", by=_BOTH)
POSTGRES_SIZE = _gauge(
    "postgres_connections_limit", "Maximum of connections: the setting postgres_pool_size; 2 in a relay.", "role", by=_BOTH
)
POSTGRES_WAITING = _gauge("postgres_waiting", "Pieces of work that wait for a connection to PostgreSQL.", "role", by=_BOTH)
CERTIFICATE_EXPIRY = _gauge(
    "certificate_not_after_seconds",
    "Expiry of a certificate in seconds since 1970, by the setting with its file; of several in a file, the first to expire.",
    "certificate",
    unit="seconds",
    by=_ALL,
)

# Policy
POLICY_VERSION = _gauge("policy_version", "Version of the policy in effect; 1 at the start.", by=_BOTH)
POLICY_KEYS = ("l1_soft_ttl", "l1_hard_ttl", "l2_ttl", "jitter", "rollout", "shadow", "l1_enabled", "l2_enabled")
POLICY_VALUE = _gauge("policy_value", "What the policy says of how a dataset is cached; true is 1.", "dataset", "key")
POLICY_REFUSED = _counter("policy_file_refused", "Changes of the policy file that were invalid and had no effect.", by=_BOTH)

# Process
BUILD = _gauge(
    "build_info", "Always 1; `process` is sidecar, relay or injector.", "process", "version", "engine", "python", by=_ALL
)
TASKS = _gauge("tasks", "Tasks in the event loop: calls, streams and background tasks.", by=_ALL)
COLLECTIONS = _counter("gc_collections", "Collections of Python's garbage collector.", "generation", by=_ALL)
COLLECTION_PAUSE = _gauge(
    "gc_longest_pause_seconds", "The longest of them since the start.", "generation", unit="seconds", by=_ALL
)
MEMORY_LIMIT = _gauge("memory_limit_bytes", "Memory limit of the container; absent if there is none.", unit="bytes", by=_ALL)
MEMORY_USED = _gauge(
    "memory_used_bytes",
    "Memory of the container that counts against its limit and cannot be reclaimed at once; absent without a container.",
    unit="bytes",
    by=_ALL,
)
# The names of these are the ones that all client libraries use.
CPU = Metric("process_cpu_seconds", Kind.COUNTER, (), "CPU time of the process.", "seconds", _ALL)
MEMORY = Metric("process_resident_memory_bytes", Kind.GAUGE, (), "Resident memory of the process.", "bytes", _ALL)
OPEN_FILES = Metric("process_open_fds", Kind.GAUGE, (), "Open file descriptors.", "", _ALL)
MAX_FILES = Metric("process_max_fds", Kind.GAUGE, (), "Limit of open file descriptors.", "", _ALL)
STARTED = Metric("process_start_time_seconds", Kind.GAUGE, (), "Start of the process, in seconds since 1970.", "seconds", _ALL)

ALL: Sequence[Metric] = tuple(found for found in list(globals().values()) if isinstance(found, Metric))


def of(process: Process) -> Sequence[Metric]:
    """Returns the metrics that a process serves."""
    return [metric for metric in ALL if process in metric.processes]
