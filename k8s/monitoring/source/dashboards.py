"""Dashboards of Grafana 10 and later. Each is a list of rows, a row a list of panels of one height."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import injector_alerts
import objectives
from alert import name
from alerts import JOB, RELAY_JOB

from cache_sidecar.metrics import definitions as d

_WIDTH, _HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    """A panel: queries by their legends, or one without."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    says: str = ""
    kind: str = "timeseries"
    "Or `stat`: the last value alone."


class Dashboard(NamedTuple):
    """A dashboard."""

    title: str
    rows: Mapping[str, Sequence[Panel]]
    "By their headings."
    variables: Mapping[str, str] = {}
    "Metrics by the label whose values can be chosen."


def rate(metric: Any, by: str = "", where: str = "", suffix: str = "") -> str:
    """Returns the sum of a counter's rates."""
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (rate({name(metric, suffix)}{{{where}}}[$__rate_interval]))"


def quantile(share: float, bucket: str, by: str = "", where: str = "") -> str:
    """Returns a quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({bucket}{{{where}}}[$__rate_interval])))"


_SECONDS = name(d.CALL_SECONDS, "_bucket")
_METHOD = "{{service}} {{method}}"
_ONE = 'dataset=~"$dataset"'
_ALTERNATIVE = "{{dataset}} size x {{l1_size}} TTL x {{l1_ttl}}"


def _process(job: str) -> Sequence[Panel]:
    """Panels of a process, whichever it is."""
    of = f'job="{job}"'
    return (
        Panel("CPU", {"{{instance}}": f"sum by (instance) (rate({name(d.CPU)}{{{of}}}[$__rate_interval]))"}, "percentunit"),
        Panel("Memory", {"{{instance}}": f"{d.MEMORY.name}{{{of}}}"}, "bytes"),
        Panel("Open files", {"{{instance}}": f"{d.OPEN_FILES.name}{{{of}}}"}),
    )


OVERVIEW = Dashboard(
    "Overview",
    {
        "Objectives": [
            Panel(
                f"{one.name}: budget spent, times as fast as it may",
                {window: f"{one.ratio(window)} / {one.budget}" for window in ("1h", "6h", "3d")},
                says=one.says,
            )
            for one in objectives.ALL
        ],
        "Now": [
            Panel("Calls a second", {"": rate(d.CALLS)}, "reqps", kind="stat"),
            Panel("Failed", {"": objectives.AVAILABILITY.ratio("5m")}, "percentunit", kind="stat"),
            Panel(
                "Hits in memory, products",
                {"": 'cache_sidecar:reads_hit:ratio5m{dataset="product", tier="l1"}'},
                "percentunit",
                kind="stat",
            ),
            Panel("Failing dependencies", {"": f"count({name(d.FAILING)} == 1) or vector(0)"}, kind="stat"),
            Panel("Sidecars", {"": f'sum(up{{job="{JOB}"}})'}, kind="stat"),
            Panel("Alerts", {"": 'count(ALERTS{alertname=~"CacheSidecar.*", alertstate="firing"}) or vector(0)'}, kind="stat"),
        ],
        "Calls": [
            Panel("Calls by method", {_METHOD: rate(d.CALLS, "service, method")}, "reqps"),
            Panel(
                "Calls that are not OK",
                {f"{_METHOD} {{{{code}}}}": rate(d.CALLS, "service, method, code", 'code!="OK"')},
                "reqps",
            ),
            Panel("Reasons", {"{{reason}}": rate(d.CALL_ERRORS, "reason")}, "reqps", "Reasons in google.rpc.ErrorInfo."),
        ],
        "Durations": [
            Panel(
                "Duration of all calls",
                {f"p{share * 100:g}": quantile(share, _SECONDS) for share in (0.5, 0.9, 0.99)},
                "s",
                d.CALL_SECONDS.help,
            ),
            Panel("p99 by method", {_METHOD: quantile(0.99, _SECONDS, "service, method")}, "s"),
            Panel("Answered without Python", {_METHOD: rate(d.NATIVE_HITS, "service, method")}, "reqps"),
            Panel("Spans of traces", {"{{outcome}}": rate(d.SPANS, "outcome")}, "ops", d.SPANS.help),
        ],
        "Load": [
            Panel("Calls in progress", {"{{instance}}": name(d.CALLS_RUNNING), "limit": f"max({name(d.CALLS_LIMIT)})"}),
            Panel("Calls that wait for Python", {"{{instance}}": name(d.CALLS_WAITING)}, says=d.CALLS_WAITING.help),
            Panel(
                "Streams and connections",
                {"streams {{instance}}": name(d.STREAMS), "connections {{instance}}": name(d.CONNECTIONS)},
            ),
        ],
        "Priorities": [
            Panel(
                "In progress by priority",
                {"{{priority}} {{service}}": f"sum by (priority, service) ({name(d.SERVICE_CALLS)})"},
                says=d.SERVICE_CALLS.help,
            ),
            Panel(
                "Refused by priority",
                {"{{priority}} {{service}}": rate(d.CALLS_REFUSED, "priority, service")},
                "reqps",
                d.CALLS_REFUSED.help,
            ),
            Panel("Attempts to oversell", {"{{by}}": rate(d.OVERSELLS, "by")}, "ops", d.OVERSELLS.help),
            Panel("What else the native engine counts", {"{{event}}": rate(d.NATIVE_EVENTS, "event")}, "ops"),
        ],
        "Processes": _process(JOB),
        "Python": [
            Panel(
                "Memory, of the limit",
                {"{{instance}}": f'{name(d.MEMORY_USED)}{{job="{JOB}"}} / {name(d.MEMORY_LIMIT)}'},
                "percentunit",
            ),
            Panel("Tasks in the event loop", {"{{instance}}": name(d.TASKS)}),
            Panel("Garbage collections", {"generation {{generation}}": rate(d.COLLECTIONS, "generation")}, "ops"),
            Panel("Longest pause since the start", {"{{instance}} {{generation}}": name(d.COLLECTION_PAUSE)}, "s"),
        ],
        "What runs": [
            Panel(
                "Versions",
                {"{{process}} {{version}} {{engine}}": f"count by (process, version, engine) ({name(d.BUILD)})"},
            ),
            Panel("Uptime", {"{{instance}}": f'time() - {d.STARTED.name}{{job="{JOB}"}}'}, "s"),
            Panel("Policy files refused", {"{{instance}}": name(d.POLICY_REFUSED)}),
            Panel("Version of the policy", {"{{instance}}": name(d.POLICY_VERSION)}),
        ],
    },
)

DATASET = Dashboard(
    "Dataset",
    {
        "Reads": [
            Panel("Hit ratio by tier", {"{{dataset}} {{tier}}": f"cache_sidecar:reads_hit:ratio5m{{{_ONE}}}"}, "percentunit"),
            Panel("Hits", {"{{dataset}} {{tier}}": rate(d.HITS, "dataset, tier", _ONE)}, "ops"),
            Panel("Misses", {"{{dataset}} {{tier}}": rate(d.MISSES, "dataset, tier", _ONE)}, "ops"),
        ],
        "Loads": [
            Panel("Keys loaded", {"{{dataset}} {{tier}}": rate(d.LOADS, "dataset, tier", _ONE)}, "ops", d.LOADS.help),
            Panel(
                "Statements and pipelines",
                {"{{dataset}} {{tier}}": rate(d.BATCHES, "dataset, tier", _ONE)},
                "ops",
                d.BATCHES.help,
            ),
            Panel("Reads that shared a load", {"{{dataset}} {{tier}}": rate(d.COALESCED, "dataset, tier", _ONE)}, "ops"),
            Panel("Fills", {"{{dataset}} {{tier}}": rate(d.FILLS, "dataset, tier", _ONE)}, "ops"),
            Panel(
                "Early refreshes",
                {"{{dataset}} {{tier}}": rate(d.EARLY_REFRESHES, "dataset, tier", _ONE)},
                "ops",
                d.EARLY_REFRESHES.help,
            ),
        ],
        "Memory": [
            Panel("Values", {"{{instance}} {{dataset}}": f"{name(d.L1_ENTRIES)}{{{_ONE}}}"}),
            Panel(
                "Size",
                {
                    "{{instance}} {{dataset}}": f"{name(d.L1_BYTES)}{{{_ONE}}}",
                    "limit {{instance}} {{dataset}}": f"{name(d.L1_LIMIT)}{{{_ONE}}}",
                },
                "bytes",
                d.L1_LIMIT.help,
            ),
            Panel("Evictions", {"{{dataset}}": rate(d.EVICTIONS, "dataset", _ONE)}, "ops"),
            Panel("Refused fills", {"{{dataset}}": rate(d.FILLS_REFUSED, "dataset", _ONE)}, "ops", d.FILLS_REFUSED.help),
        ],
        "What would be, by `cache-sidecar advise`": [
            Panel(
                "Hits with another memory",
                {
                    _ALTERNATIVE: f"{rate(d.SIMULATED_HITS, 'dataset, l1_size, l1_ttl', _ONE)} "
                    f"/ on (dataset) group_left () {rate(d.SIMULATED_READS, 'dataset', _ONE)}"
                },
                "percentunit",
                d.SIMULATED_HITS.help,
            ),
            Panel(
                "Refreshes with another memory",
                {_ALTERNATIVE: rate(d.SIMULATED_REFRESHES, "dataset, l1_size, l1_ttl", _ONE)},
                "ops",
                d.SIMULATED_REFRESHES.help,
            ),
            Panel(
                "Out of date without invalidations",
                {"{{dataset}} TTL x {{l1_ttl}}": rate(d.SIMULATED_OUTDATED, "dataset, l1_ttl", _ONE)},
                "ops",
                d.SIMULATED_OUTDATED.help,
            ),
            Panel(
                "Loads with other TTLs in Redis",
                {"{{dataset}} TTL x {{l2_ttl}}": rate(d.SIMULATED_LOADS, "dataset, l2_ttl", _ONE)},
                "ops",
                d.SIMULATED_LOADS.help,
            ),
        ],
        "Sample and policy": [
            Panel("Ids in the sample", {"{{instance}} {{dataset}}": f"{name(d.SIMULATED_KEYS)}{{{_ONE}}}"}),
            Panel("Share of all ids", {"{{instance}} {{dataset}}": f"{name(d.SIMULATED_SHARE)}{{{_ONE}}}"}, "percentunit"),
            Panel("Policy", {"{{dataset}} {{key}}": f"max by (dataset, key) ({name(d.POLICY_VALUE)}{{{_ONE}}})"}),
        ],
        "What went wrong": [
            Panel("Errors", {"{{dataset}} {{tier}}": rate(d.TIER_ERRORS, "dataset, tier", _ONE)}, "ops", d.TIER_ERRORS.help),
            Panel("Unreadable", {"{{dataset}} {{tier}}": rate(d.UNREADABLE, "dataset, tier", _ONE)}, "ops", d.UNREADABLE.help),
            Panel(
                "Not ours",
                {
                    "unsigned {{dataset}}": rate(d.UNSIGNED, "dataset", _ONE),
                    "newer {{dataset}}": rate(d.NEWER, "dataset", _ONE),
                },
                "ops",
                f"{d.UNSIGNED.help} {d.NEWER.help}",
            ),
        ],
        "Checks": [
            Panel(
                "Inspected hits",
                {"{{dataset}} {{result}}": rate(d.INSPECTIONS, "dataset, result", _ONE)},
                "ops",
                d.INSPECTIONS.help,
            ),
            Panel("Shadow mode: compared", {"{{dataset}}": rate(d.SHADOW_COMPARED, "dataset", _ONE)}, "ops"),
            Panel("Shadow mode: different", {"{{dataset}}": f"sum by (dataset) ({name(d.SHADOW_MISMATCHES)}{{{_ONE}}})"}),
        ],
    },
    {"dataset": name(d.HITS)},
)

DEPENDENCIES = Dashboard(
    "Dependencies",
    {
        "Failing": [
            Panel("Sidecars that cannot use it", {"{{what}} {{which}}": f"sum by (what, which) ({name(d.FAILING)})"}),
            Panel("Operations that failed", {"{{dataset}} {{tier}}": rate(d.TIER_ERRORS, "dataset, tier")}, "ops"),
            Panel(
                "Breakers that are open",
                {"{{what}} {{which}} {{problem}}": f"sum by (what, which, problem) ({name(d.BREAKER_OPEN)})"},
                says=d.BREAKER_OPEN.help,
            ),
            Panel("Breakers opened", {"{{what}} {{which}}": rate(d.BREAKER_OPENED, "what, which")}, "ops"),
        ],
        "Coherence": [
            Panel(
                "Partitions whose invalidations are received",
                {"{{instance}}": name(d.FEED_PARTITIONS)},
                says=d.FEED_PARTITIONS.help,
            ),
            Panel("Partitions marked stale", {"{{instance}} {{dataset}}": name(d.LAGGING)}, says=d.LAGGING.help),
            Panel("Delay of invalidations", {"{{instance}}": name(d.INVALIDATION_DELAY)}, "s", d.INVALIDATION_DELAY.help),
            Panel("Lag of the relay", {"{{instance}} {{role}}": name(d.RELAY_LAG)}, "s", d.RELAY_LAG.help),
        ],
        "PostgreSQL": [
            Panel(
                "Connections",
                {
                    "in use {{instance}} {{role}}": name(d.POSTGRES_RUNNING),
                    "idle {{instance}} {{role}}": name(d.POSTGRES_IDLE),
                    "limit {{role}}": f"max by (role) ({name(d.POSTGRES_SIZE)})",
                },
            ),
            Panel("Work that waits for a connection", {"{{instance}} {{role}}": name(d.POSTGRES_WAITING)}),
            Panel(
                "Keys read", {"{{dataset}}": rate(d.LOADS, "dataset", 'tier="store"')}, "ops", "What the caches did not answer."
            ),
        ],
        "Redis": [
            Panel("Keys read", {"{{dataset}}": rate(d.LOADS, "dataset", 'tier="l2"')}, "ops"),
            Panel("Hit ratio", {"{{dataset}}": 'cache_sidecar:reads_hit:ratio5m{tier="l2"}'}, "percentunit"),
            Panel("Fills", {"{{dataset}}": rate(d.FILLS, "dataset", 'tier="l2"')}, "ops"),
        ],
        "Connections to Redis": [
            Panel(
                "Connections",
                {
                    "in use {{node}}": f"sum by (node) ({name(d.REDIS_RUNNING)})",
                    "idle {{node}}": f"sum by (node) ({name(d.REDIS_IDLE)})",
                    "limit of each process": f"max({name(d.REDIS_SIZE)})",
                },
            ),
            Panel("Batches that wait for Redis", {"{{instance}}": name(d.REDIS_WAITING)}, says=d.REDIS_WAITING.help),
            Panel("Keys evicted", {"{{node}}": f"max by (node) (rate({name(d.REDIS_EVICTED)}[$__rate_interval]))"}, "ops"),
        ],
        "Memory of Redis": [
            Panel(
                "Used, and maxmemory",
                {
                    "used {{node}}": f"max by (node) ({name(d.REDIS_USED)})",
                    "limit {{node}}": f"max by (node) ({name(d.REDIS_LIMIT)})",
                },
                "bytes",
            ),
            Panel("Growth in a day", {"{{node}}": f"max by (node) ({name(d.REDIS_GROWTH)})"}, "bytes", d.REDIS_GROWTH.help),
            Panel("Days left", {"{{node}}": f"min by (node) ({name(d.REDIS_DAYS_LEFT)})"}, "d", d.REDIS_DAYS_LEFT.help),
        ],
    },
)

RELAY = Dashboard(
    "Relay",
    {
        "Publishing": [
            Panel(
                "Leaders",
                {"{{work}} {{roles}}": f"sum by (work, roles) ({name(d.LEADING)})"},
                says="1 for each region, each work and database.",
            ),
            Panel("Lag, as sidecars see it", {"{{role}}": f"max by (role) ({name(d.RELAY_LAG)})"}, "s", d.RELAY_LAG.help),
            Panel("Sidecars that miss it", {"{{which}}": f'sum by (which) ({name(d.FAILING)}{{what="relay"}})'}),
        ],
        "Outbox": [
            Panel("Changes that wait", {"{{roles}}": f"max by (roles) ({name(d.OUTBOX_CHANGES)})"}, says=d.OUTBOX_CHANGES.help),
            Panel("Age of the oldest", {"{{roles}}": f"max by (roles) ({name(d.OUTBOX_AGE)})"}, "s", d.OUTBOX_AGE.help),
            Panel("Published", {"{{roles}}": rate(d.PUBLISHED, "roles")}, "ops", d.PUBLISHED.help),
            Panel(
                "Partitions that lack changes",
                {"{{roles}}": f"max by (roles) ({name(d.PARTITIONS_LACKING)})"},
                says=d.PARTITIONS_LACKING.help,
            ),
        ],
        "User events": [
            Panel("Waiting", {"{{instance}}": name(d.EVENT_BACKLOG)}),
            Panel("Age of the oldest", {"{{instance}}": name(d.EVENT_AGE)}, "s"),
            Panel("Copy in MongoDB is behind", {"{{instance}}": name(d.COPY_LAG)}, "s", d.COPY_LAG.help),
            Panel("Written", {"{{outcome}}": rate(d.EVENTS, "outcome")}, "ops", d.EVENTS.help),
            Panel("Moved to PostgreSQL", {"moved": rate(d.EVENTS_MOVED), "unreadable": rate(d.EVENTS_UNREADABLE)}, "ops"),
        ],
        "Expired": [
            Panel(
                "Reservations",
                {"expired": rate(d.HOLDS_EXPIRED), "not released": rate(d.HOLDS_STUCK)},
                "ops",
                d.HOLDS_STUCK.help,
            ),
            Panel("Sessions", {"": rate(d.SESSIONS_PURGED)}, "ops", d.SESSIONS_PURGED.help),
        ],
        "Processes": _process(RELAY_JOB),
    },
)

INJECTOR = Dashboard(
    "Injector",
    {
        "Reviews": [
            Panel(
                "By outcome",
                {"{{outcome}} {{reason}}": rate(d.ADMISSIONS, "outcome, reason")},
                "reqps",
            ),
            Panel(
                "Duration",
                {f"p{share * 100:g}": quantile(share, name(d.ADMISSION_SECONDS, "_bucket")) for share in (0.5, 0.99)},
                "s",
            ),
        ],
        "Pods": [
            Panel("Without their sidecar", {"{{namespace}}": f"sum by (namespace) ({name(d.PODS_MISSING)})"}),
            Panel("Evictions", {"{{outcome}}": rate(d.POD_EVICTIONS, "outcome")}, "ops"),
        ],
        "Itself": [
            Panel(
                "Certificate expires in",
                {"{{instance}}": f'{name(d.CERTIFICATE_EXPIRY)}{{job="{injector_alerts.JOB}"}} - time()'},
                "s",
            ),
            Panel(
                "Background work that failed",
                {"{{work}}": rate(d.INJECTOR_FAILURES, "work")},
                "ops",
            ),
            Panel("Replicas", {"": f'sum(up{{job="{injector_alerts.JOB}"}})'}, kind="stat"),
        ],
        "Processes": _process(injector_alerts.JOB),
    },
)

ALL = (OVERVIEW, DATASET, DEPENDENCIES, RELAY, INJECTOR)


def _panel(panel: Panel, id: int, place: Mapping[str, int]) -> dict[str, Any]:
    targets = [
        {"datasource": _SOURCE, "expr": expr, "legendFormat": legend or "__auto", "refId": chr(ord("A") + index), "range": True}
        for index, (legend, expr) in enumerate(panel.queries.items())
    ]
    found = {
        "id": id,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }
    if panel.says:
        found["description"] = panel.says
    if panel.kind == "timeseries":
        found["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        found["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    return found


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    chosen = [
        {
            "name": label,
            "label": label.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": f"label_values({metric}, {label})", "refId": label},
            "includeAll": True,
            "multi": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "refresh": 2,
        }
        for label, metric in dashboard.variables.items()
    ]
    return [source, *chosen]


def _as_json(dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in dashboard.rows.items():
        head = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": head}
        )
        width, height = _WIDTH // len(row), _HEIGHT if any(one.kind == "timeseries" for one in row) else _HEIGHT // 2
        for index, panel in enumerate(row):
            place = {"x": index * width, "y": y + 1, "w": width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, place))
        y += 1 + height
    slug = dashboard.title.lower()
    others = {
        "type": "dashboards",
        "title": "Cache sidecar",
        "tags": ["cache-sidecar"],
        "asDropdown": True,
        "includeVars": False,
    }
    return {
        "uid": f"cache-sidecar-{slug}",
        "title": f"Cache sidecar / {dashboard.title}",
        "tags": ["cache-sidecar"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [others],
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }


def files() -> dict[str, str]:
    """Returns the dashboards."""
    return {f"dashboards/{one.title.lower()}.json": json.dumps(_as_json(one), indent=1) + "\n" for one in ALL}
