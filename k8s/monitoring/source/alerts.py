"""THE list of alerts. Those of the objectives are made from `objectives.py`, all others are written here."""

from collections.abc import Sequence

import injector_alerts
from alert import (
    PAGE,
    TICKET,
    Alert,
    Story,
    bad_from_ten_to_fifty,
    bad_from_ten_to_thirty,
    name,
    rise_from_ten_to_thirty,
    series,
)
from objectives import ALL as OBJECTIVES
from objectives import FAST, SLOW, Burn, Objective

from cache_sidecar.metrics import definitions as d

JOB, RELAY_JOB = "cache-sidecar", "cache-sidecar-relay"
# A pod's sidecar; the injector names its container so.
_EXEC = "kubectl -n NAMESPACE exec POD -c cache-sidecar --"
PROBE = f"{_EXEC} cache-sidecar-probe 127.0.0.1:50051 --verbose"
_STATS = "grpcurl -plaintext 127.0.0.1:50051 cache_sidecar.v1.AdminService/GetStats"
_POLICY = "grpcurl -plaintext 127.0.0.1:50051 cache_sidecar.v1.AdminService/GetPolicy"
_LOGS = "kubectl -n NAMESPACE logs POD -c cache-sidecar --since=30m"
_RELAYS = "kubectl -n cache-sidecar get pods -l app.kubernetes.io/name=cache-sidecar-relay -o wide"
_RELAY_LOGS = "kubectl -n cache-sidecar logs -l app.kubernetes.io/name=cache-sidecar-relay --since=30m --prefix"
_VERSIONS = (
    "kubectl get pods -A -l cache-sidecar.io/injected=true "
    "-o custom-columns=POD:.metadata.name,IMAGES:.spec['initContainers','containers'][*].image"
)
_A = {"job": JOB, "instance": "a"}
_R = {"job": RELAY_JOB, "instance": "r"}


def _sql(statement: str) -> str:
    return f"psql \"$URI\" -c '{statement}'"


_BEHIND = _sql("select region, (select max(position) from cache_sidecar.outbox) - position as behind from cache_sidecar.relays")


def _burn(objective: Objective, burns: Sequence[Burn], severity: str, how: str, threshold: str) -> Alert:
    budget = objective.budget
    terms = [
        f"({objective.ratio(burn.long)} > {burn.factor} * {budget}"
        f" and {objective.ratio(burn.short)} > {burn.factor} * {budget})"
        for burn in burns
    ]
    return Alert(
        f"{objective.name}Burns{how}",
        " or ".join(terms),
        "2m" if severity == PAGE else "15m",
        severity,
        f"The error budget of the objective {objective.name.lower()} burns over {threshold} times as fast as it may: "
        "{{ $value | humanizePercentage }} is bad.",
        f"The objective: {objective.says}",
        {"which other alert fires, and since when": "amtool alert query 'alertname=~\"CacheSidecar.*\"'", "what fails": PROBE},
        [
            "Look for the cause among the other alerts: this one only says that callers notice.",
            "The dashboard *Overview* shows the methods and codes; *Dependencies* what fails behind them.",
        ],
        _burning(objective),
    )


def _burning(objective: Objective) -> Story:
    """Everything is bad for the second half of the first hour. The short windows end the alert after 6 hours or less."""
    good, bad = 30, 30
    if objective.name == "Freshness":
        values = {series(d.FEED_PARTITIONS, **_A): f"256+0x{good} 0+0x{bad} 256+0x600"}
    elif objective.name == "Latency":
        of = {**_A, "service": "s", "method": "m"}
        rest = f"{60 * (good + bad)}+60x600"
        values = {
            series(d.CALL_SECONDS, "_count", **of): f"0+60x{good} {60 * (good + 1)}+60x{bad} {rest}",
            series(d.CALL_SECONDS, "_bucket", **of, le="0.025"): f"0+60x{good} {60 * good}+0x{bad} {60 * good}+60x600",
        }
    else:
        of = {**_A, "service": "s", "method": "m"}
        values = {
            series(d.CALLS, **of, code="OK"): f"0+60x{good} {60 * good}+0x{bad} {60 * good}+60x600",
            series(d.CALLS, **of, code="UNAVAILABLE"): f"0+0x{good} 60+60x{bad} {60 * (bad + 1)}+0x600",
        }
    return Story(values, ["58m"], ["25m", "8h"])


def _failing(what: str, which: str) -> dict[str, str]:
    return bad_from_ten_to_thirty(d.FAILING, **_A, what=what, which=which)


_DEPENDENCIES = (
    Alert(
        "RedisNodeFails",
        f'sum by (which) ({name(d.FAILING)}{{what="redis"}}) > 0',
        "1m",
        PAGE,
        "{{ $value }} sidecars cannot use the Redis node {{ $labels.which }}.",
        "Reads of its keys go to PostgreSQL, slower; products in memory are still answered. Writes are "
        "acknowledged, and published later.",
        {
            "the reason, in the node's own words": PROBE,
            "what the cluster thinks of it": "redis-cli -h NODE cluster nodes",
            "whether it is full, read-only, or lost its replica": "redis-cli -h NODE info",
        },
        [
            "One node down: wait for the failover, which takes seconds, then replace the node.",
            "It answers and refuses (NOPERM, OOM, MISCONF): the reason says what to change; the ACL is in `k8s/README.md`.",
            "All nodes: look at the network policy, the certificate and the password first.",
        ],
        Story(_failing("redis", "10.0.0.7:6379"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "PostgresFails",
        f'sum by (which) ({name(d.FAILING)}{{what="postgresql"}}) > 0',
        "1m",
        PAGE,
        "{{ $value }} sidecars or relays cannot use the PostgreSQL of {{ $labels.which }}.",
        "Writes and reads of what is not cached fail with UNAVAILABLE. Cached reads go on.",
        {
            "the reason, in PostgreSQL's own words": PROBE,
            "whether it accepts writes": _sql("select pg_is_in_recovery()"),
            "who waits for whom": _sql("select pid, wait_event, state, left(query, 80) from pg_stat_activity"),
        },
        [
            "After a failover, check that the URI reaches the new primary.",
            "Missing privileges or migrations: run `cache-sidecar migrate`.",
            "Too many connections: lower `postgres_pool_size`, or put a pooler in front of it (not for relays).",
        ],
        Story(_failing("postgresql", "catalog"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "RelayMissing",
        f'sum by (which) ({name(d.FAILING)}{{what="relay"}}) > 0',
        "1m",
        PAGE,
        "{{ $value }} sidecars have no relay of {{ $labels.which }}, or one that does not advance.",
        "Replies are marked stale. Changes made in plain SQL, and those whose writer could not publish, are not seen.",
        {
            "whether relays run": _RELAYS,
            "what they log": _RELAY_LOGS,
            "how far each partition is": _BEHIND,
        },
        [
            "No pod runs: look at its events, `kubectl -n cache-sidecar describe deployment cache-sidecar-relay`.",
            "It runs and does not advance: its log says which of Redis and PostgreSQL it cannot reach.",
            "Over 5 seconds between the clocks of relay and sidecars: set the clocks.",
        ],
        Story(_failing("relay", "product"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "RevocationsOutOfDate",
        f'sum by (instance) ({name(d.FAILING)}{{what="revocations"}}) > 0',
        "15m",
        TICKET,
        "{{ $labels.instance }} has a list of revoked certificates that is out of date, or cannot be used.",
        "Nobody is locked out; certificates revoked since are still accepted.",
        {"what is wrong with the file": PROBE},
        ["Issue a new CRL and put it into the Secret: it is used within a second of the file's change."],
        Story(_failing("revocations", ""), ["28m"], ["5m", "20m", "40m"]),
    ),
    Alert(
        "PostgresConnectionsExhausted",
        f"{name(d.POSTGRES_WAITING)} > 0 and {name(d.POSTGRES_RUNNING)} >= {name(d.POSTGRES_SIZE)}",
        "5m",
        TICKET,
        "All connections of {{ $labels.instance }} to {{ $labels.role }} are in use, and {{ $value }} pieces of work wait.",
        "Misses and writes are slower, and fail with UNAVAILABLE when they have waited for `postgres_timeout`.",
        {
            "the statements that take long": _sql(
                "select now() - query_start, left(query, 80) from pg_stat_activity order by 1 desc"
            ),
            "what waits": _STATS,
        },
        [
            "Slow statements: find the lock or the missing index.",
            "A low hit ratio: see HitRatioCollapses.",
            "Else raise `postgres_pool_size`.",
        ],
        Story(
            bad_from_ten_to_thirty(d.POSTGRES_WAITING, "0", "7", **_A, role="catalog")
            | bad_from_ten_to_thirty(d.POSTGRES_RUNNING, "1", "8", **_A, role="catalog")
            | {series(d.POSTGRES_SIZE, **_A, role="catalog"): "8+0x90"},
            ["20m"],
            ["5m", "40m"],
        ),
    ),
    Alert(
        "RedisMemoryNearLimit",
        f"max by (node) ({name(d.REDIS_USED)} / {name(d.REDIS_LIMIT)}) > 0.9",
        "10m",
        TICKET,
        "The Redis node {{ $labels.node }} uses {{ $value | humanizePercentage }} of its maxmemory.",
        "With a `volatile` or `allkeys` policy entries are evicted early: more misses. With `noeviction` Redis refuses writes: "
        "reads go to PostgreSQL, and replies are marked stale.",
        {
            "what it evicts, and by which policy": "redis-cli -h NODE info memory; redis-cli -h NODE info stats",
            "what takes the room": "redis-cli -h NODE --bigkeys",
        },
        [
            "Raise maxmemory, or add nodes; `cache-sidecar estimate` computes how many.",
            "Set `maxmemory-policy` to `volatile-lru`: user events, watermarks and counters do not expire and must stay.",
            "User events that wait: see EventsWait.",
        ],
        Story(
            {
                series(d.REDIS_USED, **_R, node="10.0.0.7:6379"): "100+0x9 480+0x29 100+0x40",
                series(d.REDIS_LIMIT, **_R, node="10.0.0.7:6379"): "512+0x90",
            },
            ["30m"],
            ["5m", "15m", "50m"],
        ),
    ),
    Alert(
        "RedisMemoryFills",
        f"min by (node) ({name(d.REDIS_DAYS_LEFT)}) < 7",
        "30m",
        TICKET,
        "The Redis node {{ $labels.node }} will be full in {{ $value | humanize }} days if it grows as in the last day.",
        "None yet; see RedisMemoryNearLimit.",
        {
            "how it grew": f"curl -s 'PROMETHEUS/api/v1/query?query={name(d.REDIS_GROWTH)}'",
            "what takes the room": "redis-cli -h NODE --bigkeys",
        },
        [
            "More customers or products: plan more nodes; `cache-sidecar estimate` computes how many.",
            "A cache that was emptied fills up again: the forecast ends when it has.",
            "TTLs that were raised in the policy: wait as long as they are, and look again.",
        ],
        Story(
            bad_from_ten_to_fifty(d.REDIS_DAYS_LEFT, "100", "3", **_R, node="10.0.0.7:6379"),
            ["45m"],
            ["5m", "35m", "60m"],
        ),
    ),
)

_STOCK = (
    Alert(
        "OversellAttempts",
        f'sum(rate({name(d.OVERSELLS)}{{by!="check"}}[5m])) > 0.5 * '
        f'sum(rate({name(d.CALLS)}{{method=~"ReserveInventory|AdjustInventory"}}[5m]))',
        "5m",
        TICKET,
        "{{ $value | humanize }} times a second somebody wants more pieces than there are: most who want any.",
        "They get FAILED_PRECONDITION (`OUT_OF_STOCK`). Nothing is oversold.",
        {
            "what is sold out": _sql(
                "select product_id, sum(available) from cache_sidecar.inventory group by 1 having sum(available) < 5"
            ),
            "who refuses": f"curl -s 'PROMETHEUS/api/v1/query?query={name(d.OVERSELLS)}'",
        },
        [
            "A sale of few pieces to many customers: as it should be.",
            "Pages that offer what is sold out: `hide_sold_out` in the policy, or WatchInventory in the shop.",
            "Stock that should be there: see StockNotReleased, and look for an import that is missing.",
        ],
        Story(
            rise_from_ten_to_thirty(d.OVERSELLS, **_A, by="admission")
            | {series(d.CALLS, **_A, service="s", method="ReserveInventory", code="OK"): "0+60x90"},
            ["20m"],
            ["5m", "50m"],
        ),
    ),
    Alert(
        "StockCheckViolated",
        f'sum by (job, instance) (increase({name(d.OVERSELLS)}{{by="check"}}[15m])) > 0',
        "0m",
        PAGE,
        "PostgreSQL had to refuse to {{ $labels.instance }} a statement that would have left less than nothing in stock.",
        "The call failed with UNAVAILABLE. Nothing is oversold, but numbers that the sidecar relies on are wrong.",
        {
            "which statement": f"{_LOGS} | grep inventory",
            "rows whose numbers do not add up": _sql(
                "select * from cache_sidecar.inventory i where reserved <> (select coalesce(sum(quantity), 0) from "
                "cache_sidecar.reservation_items join cache_sidecar.reservations using (reservation_id) "
                "where state = $$held$$ and product_id = i.product_id and bucket = i.bucket)"
            ),
        },
        [
            "Somebody changed `available` or `reserved` by hand: set `reserved` to the sum of what is held.",
            "A trigger or rule of yours on the table: it must not change these columns.",
            "Neither: report it, with the statement; it is a defect of the sidecar.",
        ],
        Story(rise_from_ten_to_thirty(d.OVERSELLS, **_A, by="check"), ["20m"], ["5m", "55m"]),
    ),
)

_COHERENCE = (
    Alert(
        "InvalidationsMissed",
        f"{name(d.FEED_PARTITIONS)} < 256",
        "2m",
        TICKET,
        "{{ $labels.instance }} receives the invalidations of only {{ $value }} of 256 partitions.",
        "It does not answer from memory for the others, so calls are slower; nothing is out of date.",
        {"which node is not heard": PROBE, "its log": _LOGS},
        ["Look at the Redis node first. If it is well, look for a network policy or a proxy that cuts long connections."],
        Story(bad_from_ten_to_thirty(d.FEED_PARTITIONS, "256", "170", **_A), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "InvalidationsSlow",
        f"max by (job, instance) ({name(d.INVALIDATION_DELAY)}) > 0.6",
        "1m",
        TICKET,
        "An invalidation took {{ $value | humanizeDuration }} to reach {{ $labels.instance }}.",
        "Changes are seen later than usual. When heartbeats are late, too, it does not answer from memory.",
        {"which node, and CPU of the pod": PROBE, "how slow Redis is": "redis-cli -h NODE --latency"},
        ["A busy pod: give the container CPU.", "A busy Redis node: `redis-cli -h NODE slowlog get`."],
        Story(bad_from_ten_to_thirty(d.INVALIDATION_DELAY, "0.002", "1.5", **_A), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "RepliesStale",
        f"sum by (dataset) ({name(d.LAGGING)}) > 0",
        "1m",
        PAGE,
        "Replies of {{ $labels.dataset }} are marked stale: the relay lags in {{ $value }} partitions, of all sidecars.",
        "Replies may be older than `staleness_bound`, and say so.",
        {
            "how far the relay is": _RELAY_LOGS,
            "whether PostgreSQL is slow": _BEHIND,
        },
        ["See RelayMissing and RedisNodeFails: one of them is the usual cause.", "A large import: wait; the relay catches up."],
        Story(bad_from_ten_to_thirty(d.LAGGING, "0", "256", **_A, dataset="product"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "StaleUnmarked",
        f'sum by (dataset) (increase({name(d.INSPECTIONS)}{{result="violation"}}[10m])) > 0',
        "0m",
        PAGE,
        "{{ $labels.dataset }} was served older than `staleness_bound` without being marked stale.",
        "Callers saw old data that claimed to be fresh: the one thing that must not happen.",
        {"which entries": f"{_LOGS} | grep staleness_bound"},
        [
            "Bypass memory at once: `l1_enabled = false` for the dataset in the policy file.",
            "Look for a table that is changed without its trigger (`cache-sidecar verify`); report a bug with the log lines.",
        ],
        Story(rise_from_ten_to_thirty(d.INSPECTIONS, **_A, dataset="product", result="violation"), ["20m"], ["5m", "55m"]),
    ),
    Alert(
        "RecordsForged",
        f"sum by (dataset) (increase({name(d.UNSIGNED)}[10m])) > 0 or sum by (dataset) (increase({name(d.NEWER)}[10m])) > 0",
        "0m",
        PAGE,
        "{{ $labels.dataset }} has records in Redis that are not ours, or versions that PostgreSQL does not have.",
        "Nothing: they are dropped. Somebody else may be able to write to Redis, or PostgreSQL lost commits.",
        {"which": _LOGS, "who is connected": "redis-cli -h NODE client list"},
        [
            "PostgreSQL was restored or failed over without its last commits: expected once; run `cache-sidecar verify`.",
            "Otherwise treat it as an intrusion: `.github/SECURITY.md`, rotate the password and the MAC keys.",
        ],
        Story(rise_from_ten_to_thirty(d.UNSIGNED, **_A, dataset="session"), ["20m"], ["5m", "55m"]),
    ),
    Alert(
        "RecordsUnreadable",
        f"sum by (dataset, tier) (rate({name(d.UNREADABLE)}[5m])) > 0",
        "15m",
        TICKET,
        "Records of {{ $labels.dataset }} in {{ $labels.tier }} cannot be read.",
        "They are misses: slower, not wrong.",
        {"which versions run": _VERSIONS},
        [
            "During an update from another version it ends with it.",
            "Otherwise another program writes into the namespace of our keys.",
        ],
        Story(rise_from_ten_to_thirty(d.UNREADABLE, **_A, dataset="cart", tier="l2"), ["28m"], ["5m", "20m", "50m"]),
    ),
)

_CACHES = (
    Alert(
        "HitRatioCollapses",
        "cache_sidecar:reads_hit:ratio5m < 0.5 * avg_over_time(cache_sidecar:reads_hit:ratio5m[1d])"
        f" and on (dataset, tier) sum by (dataset, tier) (rate({name(d.MISSES)}[5m])) > 1",
        "5m",
        PAGE,
        "Only {{ $value | humanizePercentage }} of the reads of {{ $labels.dataset }} hit {{ $labels.tier }}: "
        "less than half of the last day's.",
        "Calls are slower, and PostgreSQL gets what the caches used to answer.",
        {"the tier's counts": _STATS, "the policy in effect, and where each value is from": _POLICY},
        [
            "After a deployment of many pods, or `Invalidate` with `all`: it ends by itself as the caches fill.",
            "The policy: a tier that was switched off, a rollout, a TTL.",
            "Redis evicts: compare `evicted_keys` and `maxmemory` of `redis-cli -h NODE info`.",
            "Memory evicts: see MemoryTooSmall.",
        ],
        Story(
            {
                # With a night in which nobody reads.
                series(d.HITS, **_A, dataset="product", tier="l1"): "0+600x20 12000+0x15 12000+600x30 30000+0x20 30600+600x60",
                series(d.MISSES, **_A, dataset="product", tier="l1"): "0+6x20 120+0x15 120+6x30 900+600x20 12300+6x60",
            },
            ["82m"],
            ["30m", "55m", "112m"],
        ),
    ),
    Alert(
        "MemoryTooSmall",
        f'sum by (dataset) (rate({name(d.EVICTIONS)}[30m])) > 0.5 * sum by (dataset) (rate({name(d.FILLS)}{{tier="l1"}}[30m]))'
        f' and on (dataset) cache_sidecar:reads_hit:ratio5m{{tier="l1"}} < 0.8',
        "1h",
        TICKET,
        "Memory is too small for {{ $labels.dataset }}: {{ $value | humanize }} values a second are evicted for others, "
        "and under 80 % of reads hit.",
        "More reads go to Redis than have to.",
        {"entries, bytes and evictions": _STATS, "what would fit": "cache-sidecar estimate FILE"},
        ["Raise `l1_max_bytes` together with the container's memory limit."],
        Story(
            {
                series(d.EVICTIONS, **_A, dataset="product"): "0+60x120 7200+0x200",
                series(d.FILLS, **_A, dataset="product", tier="l1"): "0+60x320",
                series(d.HITS, **_A, dataset="product", tier="l1"): "0+60x320",
                series(d.MISSES, **_A, dataset="product", tier="l1"): "0+60x320",
            },
            ["110m"],
            ["30m", "280m"],
        ),
    ),
    Alert(
        "ShadowDiffers",
        f"sum by (dataset) (increase({name(d.SHADOW_MISMATCHES)}[1h])) > 0",
        "0m",
        TICKET,
        "In shadow mode, the caches would have answered {{ $value | humanize }} reads of {{ $labels.dataset }} "
        "differently from PostgreSQL.",
        "Nothing: in shadow mode, PostgreSQL answers.",
        {"which ids": f"{_LOGS} | grep shadow"},
        ["Do not raise `rollout` yet: something changes the table without its trigger; see `store/README.md`."],
        Story(rise_from_ten_to_thirty(d.SHADOW_MISMATCHES, **_A, dataset="product"), ["20m"], ["5m", "100m"]),
    ),
)

_LOAD = (
    Alert(
        "Overloaded",
        f'sum by (job, instance) (rate({name(d.CALL_ERRORS)}{{reason="OVERLOADED"}}[5m]))'
        f" > 0.01 * sum by (job, instance) (rate({name(d.CALLS)}[5m]))",
        "5m",
        PAGE,
        "{{ $labels.instance }} rejects {{ $value | humanize }} calls a second because it cannot answer more.",
        "Rejected calls get RESOURCE_EXHAUSTED (`OVERLOADED`) at once and may be retried; carts, sessions and stock go first.",
        {"calls in progress, and what waits": _STATS, "CPU and memory": "kubectl -n NAMESPACE top pod POD --containers"},
        ["Add pods, or CPU for the container.", "One caller in a loop: `calls_total` by method shows which."],
        Story(
            rise_from_ten_to_thirty(d.CALL_ERRORS, 60, **_A, service="s", method="m", reason="OVERLOADED")
            | {series(d.CALLS, **_A, service="s", method="m", code="OK"): "0+600x90"},
            ["20m"],
            ["5m", "50m"],
        ),
    ),
    Alert(
        "MemoryNearLimit",
        f"{name(d.MEMORY_USED)} / {name(d.MEMORY_LIMIT)} > 0.9",
        "5m",
        PAGE,
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory limit.",
        "None yet. At the limit, the kernel kills the sidecar: calls of its pod fail until it has restarted.",
        {"what takes it": _STATS, "earlier kills": "kubectl -n NAMESPACE describe pod POD"},
        ["Raise the limit: L1 has shrunk already (`l1_limit_bytes`); 100 MiB are for the process, 184 MiB for clients."],
        Story(
            {series(d.MEMORY_USED, **_A): "100+0x9 480+0x19 100+0x40", series(d.MEMORY_LIMIT, **_A): "512+0x90"},
            ["20m"],
            ["5m", "40m"],
        ),
    ),
    Alert(
        "OpenFilesNearLimit",
        f'{d.OPEN_FILES.name}{{job=~"{JOB}.*"}} / {d.MAX_FILES.name}{{job=~"{JOB}.*"}} > 0.9',
        "5m",
        TICKET,
        "{{ $labels.instance }} has {{ $value | humanizePercentage }} of the open files that it may have.",
        "New connections will be closed.",
        {"who is connected": f"{_EXEC} ls /proc/1/fd"},
        ["Look for a client that opens a connection for each call. Else raise the limit of the container runtime."],
        Story(
            {series(d.OPEN_FILES, **_A): "10+0x9 95+0x19 10+0x40", series(d.MAX_FILES, **_A): "100+0x90"},
            ["20m"],
            ["5m", "40m"],
        ),
    ),
)

_EVENTS = (
    Alert(
        "EventsWait",
        f"max({name(d.EVENT_AGE)}) > 60",
        "2m",
        TICKET,
        "User events have been waiting for the relay for {{ $value | humanizeDuration }}.",
        "None for callers; recommendations and analytics lag.",
        {"what the relay does": _RELAY_LOGS, "how many wait": _STATS},
        ["See RelayMissing, and PostgresFails for the role `analytics`."],
        Story(bad_from_ten_to_thirty(d.EVENT_AGE, "0", "300", **_A), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "EventCopyLags",
        f"max({name(d.COPY_LAG)}) > 300",
        "2m",
        TICKET,
        "The copy of the user events in MongoDB is behind by {{ $value | humanizeDuration }}.",
        "None for callers; `analytics --store mongodb` lags, and erasures wait.",
        {"what the relay does": _RELAY_LOGS, "what MongoDB says": PROBE},
        ["Bring MongoDB back: the copy goes on where it was.", "See RelayMissing."],
        Story(bad_from_ten_to_thirty(d.COPY_LAG, "0", "600", **_A), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "EventsRefused",
        f'sum(rate({name(d.EVENTS)}{{outcome="refused"}}[5m])) > 0',
        "1m",
        PAGE,
        "{{ $value | humanize }} user events a second are refused.",
        "Writers get RESOURCE_EXHAUSTED (`EVENT_BACKLOG_FULL`) or UNAVAILABLE; what they do not retry is lost.",
        {"how many wait, and why": PROBE, "what the relay does": _RELAY_LOGS},
        [
            "Bring the relay back; it moves thousands of events a second.",
            "Until then, raise `event_backlog` if Redis has room.",
        ],
        Story(rise_from_ten_to_thirty(d.EVENTS, **_A, outcome="refused"), ["20m"], ["5m", "50m"]),
    ),
)

_RELAY = (
    Alert(
        "RelayLeadsNot",
        f"max by (work, roles) ({name(d.LEADING)}) == 0 or absent({name(d.LEADING)})",
        "1m",
        PAGE,
        "No relay leads: {{ $labels.work }} {{ $labels.roles }}.",
        "What that leader does is not done: changes are not published, or events not moved.",
        {
            "whether relays run": _RELAYS,
            "what they log": _RELAY_LOGS,
            "who holds the lock": _sql("select * from pg_locks where locktype = $$advisory$$"),
        },
        [
            "A relay that hangs keeps its lock until PostgreSQL notices: end its session, `pg_terminate_backend`.",
            "See PostgresFails.",
        ],
        Story(bad_from_ten_to_thirty(d.LEADING, "1", "0", **_R, work="publishing", roles="catalog"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "OutboxGrows",
        f"max by (roles) ({name(d.OUTBOX_CHANGES)}) > 1000 and max by (roles) ({name(d.OUTBOX_AGE)}) > 30",
        "2m",
        PAGE,
        "{{ $value }} committed changes of {{ $labels.roles }} wait to be published.",
        "Sidecars do not learn of them: replies are marked stale. PostgreSQL's table `outbox` grows.",
        {
            "what keeps the relay from it": _RELAY_LOGS,
            "how many, and since when": _BEHIND,
        },
        ["A node of Redis refuses or hangs: see RedisNodeFails.", "A large import: it ends by itself."],
        Story(
            bad_from_ten_to_thirty(d.OUTBOX_CHANGES, "0", "5000", **_R, roles="catalog")
            | bad_from_ten_to_thirty(d.OUTBOX_AGE, "0", "300", **_R, roles="catalog"),
            ["20m"],
            ["5m", "40m"],
        ),
    ),
    Alert(
        "OutboxOld",
        f"max by (roles) ({name(d.OUTBOX_AGE)}) > 60",
        "1m",
        PAGE,
        "A committed change of {{ $labels.roles }} has not been published for {{ $value | humanizeDuration }}.",
        "Sidecars have not learnt of it: replies of its partition are marked stale.",
        {"what keeps the relay from it": _RELAY_LOGS, "which": _BEHIND},
        ["One partition only: the Redis node that owns it refuses; see RedisNodeFails.", "All: see RelayLeadsNot."],
        Story(bad_from_ten_to_thirty(d.OUTBOX_AGE, "0", "300", **_R, roles="catalog"), ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "StockNotReleased",
        f"increase({name(d.HOLDS_STUCK)}[15m]) > 0",
        "10m",
        TICKET,
        "The stock of expired reservations cannot be released.",
        "Products are sold out that are not.",
        {"which, and why": _RELAY_LOGS},
        ["The log names the reservation; a row of `inventory` that was changed by hand is the usual cause."],
        Story(rise_from_ten_to_thirty(d.HOLDS_STUCK, **_R), ["25m"], ["5m", "55m"]),
    ),
)

_PROCESSES = (
    Alert(
        "CertificateExpires",
        f"min by (job, instance, certificate) ({name(d.CERTIFICATE_EXPIRY)}) - time() < 7 * 86400",
        "15m",
        PAGE,
        "{{ $labels.certificate }} of {{ $labels.job }} {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
        "After that clients, or servers, refuse the connection. The injector's: no pod gets a sidecar.",
        {
            "why it was not renewed": "kubectl -n NAMESPACE describe certificates",
            "the certificate in the pod": f"{_EXEC} cat /etc/cache-sidecar/tls/tls.crt | openssl x509 -noout -dates",
        },
        ["Renew it: a changed file is read within a second. The injector renews its own: its log says what keeps it."],
        Story(
            {series(d.CERTIFICATE_EXPIRY, **_A, certificate="listen_tls_cert"): "8640000+0x30 86400+0x30 8640000+0x60"},
            ["55m"],
            ["20m", "80m"],
        ),
    ),
    Alert(
        "Down",
        f'up{{job="{JOB}"}} == 0',
        "5m",
        PAGE,
        "Prometheus cannot reach the sidecar {{ $labels.instance }}.",
        "Its pod has no cache; what its application does without it is the application's.",
        {"the container": "kubectl -n NAMESPACE describe pod POD", "its last words": f"{_LOGS} --previous"},
        ["Exit code 64: a setting; the log has one line that says which.", "137: killed by the kernel, see MemoryNearLimit."],
        Story({f'up{{job="{JOB}", instance="a"}}': "1+0x9 0+0x19 1+0x40"}, ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "Restarts",
        f'changes({d.STARTED.name}{{job=~"{JOB}.*"}}[30m]) > 2',
        "0m",
        TICKET,
        "{{ $labels.instance }} has restarted {{ $value }} times within half an hour.",
        "Each restart empties memory, and breaks calls in progress.",
        {"why": "kubectl -n NAMESPACE describe pod POD", "its last words": f"{_LOGS} --previous"},
        ["See Down."],
        Story({series(d.STARTED, **_A): "1+0x9 2+0x2 3+0x2 4+0x2 5+0x90"}, ["20m"], ["5m", "60m"]),
    ),
    Alert(
        "VersionsMixed",
        f"count(count by (version) ({name(d.BUILD)})) > 1",
        "1d",
        TICKET,
        "{{ $value }} versions of the sidecar have been running together for a day.",
        "None; entries of the other version that cannot be read are misses.",
        {"which pods are old": f"curl -s 'PROMETHEUS/api/v1/query?query={name(d.BUILD)}'"},
        ["Restart the Deployments that were not: pods keep the sidecar that they were created with."],
        Story(
            {
                series(d.BUILD, **_A, version="1"): "1+0x2000",
                series(d.BUILD, job=JOB, instance="b", version="2"): "1+0x1600 _x400",
            },
            ["1500m"],
            ["30m", "1700m"],
        ),
    ),
    Alert(
        "PolicyFileRefused",
        f"increase({name(d.POLICY_REFUSED)}[15m]) > 0",
        "0m",
        TICKET,
        "{{ $labels.instance }} refused a change of its policy file: the policy from before stays in effect.",
        "None: but what was to change has not.",
        {"what is wrong with it": _POLICY, "the log line": f"{_LOGS} | grep policy"},
        ["Correct the ConfigMap: it is read within a second of reaching the pod."],
        Story({series(d.POLICY_REFUSED, **_A): "0+0x9 1+0x60"}, ["15m"], ["5m", "40m"]),
    ),
)

_BURNS = tuple(
    _burn(objective, burns, severity, how, threshold)
    for objective in OBJECTIVES
    for burns, severity, how, threshold in ((FAST, PAGE, "Fast", "6"), (SLOW, TICKET, "Slowly", "1"))
)

GROUPS = {
    "objectives": _BURNS,
    "dependencies": _DEPENDENCIES,
    "coherence": _COHERENCE,
    "caches": _CACHES,
    "load": _LOAD,
    "stock": _STOCK,
    "relay": _RELAY,
    "events": _EVENTS,
    "processes": _PROCESSES,
    "injector": injector_alerts.ALERTS,
}
ALL = tuple(alert for group in GROUPS.values() for alert in group)
