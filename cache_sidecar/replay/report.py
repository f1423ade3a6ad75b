"""From what was measured to a report: one dictionary, from which the text, the JSON and the page are made."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cache_sidecar.replay.order_file import Shop, Visit
from cache_sidecar.replay.run import ArmResult, Options, Round
from cache_sidecar.replay.shopper import PAGES, Kind
from cache_sidecar.replay.statistics import Ratio, percentile, ratio

MIB = 1 << 20
_BUCKETS = 40
# The network is emulated: in a data centre, its CPU time is nobody's.
_NOT_COUNTED = {"network"}
HOW = (
    "Statements are the Query and Execute messages that PostgreSQL is sent, BEGIN and COMMIT among them, counted on their way. "
    "CPU is the time of all processes of an arm and their descendants, with that of the shop's own program, which is the load "
    "generator as well; `all` is without the emulated network. Memory is what a process has at the end; what several share "
    "counts once. Latencies are measured in the shop's program."
)


class Goal(NamedTuple):
    """A ratio that is to be reached."""

    figure: str
    arm: str
    most: float


GOALS = (
    Goal("product page p50", "direct", 0.10),
    Goal("product page p50", "redis", 0.40),
    Goal("product page p99", "direct", 0.20),
    Goal("product page p99", "redis", 0.50),
    Goal("statements per page", "direct", 0.03),
    Goal("statements per page", "redis", 1.0),
    Goal("CPU per page", "direct", 1.0),
    Goal("CPU per page", "redis", 1.0),
)


def report(shop: Shop, visits: Sequence[Visit], options: Options, results: Sequence[ArmResult]) -> dict[str, Any]:
    """Returns the report."""
    return {
        "lines": shop.sales.lines,
        "left_out": dict(shop.sales.left_out),
        "products": len(shop.products),
        "visits": len(visits),
        "options": {
            "sidecars": options.plan.sidecars,
            "redis": options.plan.redis,
            "round_trip_ms": options.plan.round_trip * 1000,
            "concurrency": options.habits.concurrency,
            "views": options.habits.views,
            "abandoned": options.habits.abandoned,
            "logged_in": options.habits.known,
            "speed_up": options.habits.speed_up,
            "change_every": options.habits.change_every,
            "seed": options.habits.seed,
            "rounds": options.rounds,
            "fault": options.fault,
        },
        "arms": {result.name: _arm(result) for result in results},
        "ratios": _ratios(results),
        "how": HOW,
    }


def _arm(result: ArmResult) -> dict[str, Any]:
    rounds = result.rounds
    records = [one.record for one in rounds]
    pages = sum(record.pages for record in records)
    tiers = sum((one.tiers for one in rounds), Counter[tuple[str, str]]())
    seconds = sum(one.seconds for one in rounds)
    errors = sum((record.errors for record in records), Counter[str]())
    return {
        "pages": pages,
        "seconds": seconds,
        "pages_per_second": pages / seconds if seconds else 0.0,
        "latency_ms": {str(kind): _latency(kind, rounds) for kind in Kind},
        "failed_pages": sum(len(record.failed[kind]) for record in records for kind in PAGES),
        "errors": dict(sorted(errors.items())),
        "given_up": sum(record.given_up for record in records),
        "statements_per_page": _per_page(_statements(rounds), pages),
        "cpu_ms_per_page": _per_page(_cpu_ms(rounds), pages),
        "memory_mib": {name: used / MIB for name, used in result.memory.items()},
        "tiers": [
            {"dataset": dataset, "tier": tier, "hits": hits, "per_page": hits / pages if pages else 0.0}
            for (dataset, tier), hits in sorted(tiers.items())
            if hits
        ],
        "marked_stale": sum(record.marked_stale for record in records),
        "oldest_seconds": max(record.oldest for record in records),
        "bound_seconds": result.bound,
        "invariants": result.invariants,
        "fault": _fault(rounds),
        "timeline": _timeline(rounds),
        "tier_timeline": _tier_timeline(rounds),
    }


def _latency(kind: Kind, rounds: Iterable[Round]) -> dict[str, float]:
    rounds = list(rounds)
    ordered = sorted(second * 1000 for one in rounds for second in one.record.seconds[kind])
    return {
        "count": len(ordered),
        "failed": sum(len(one.record.failed[kind]) for one in rounds),
        **{f"p{round(share * 100)}": percentile(ordered, share) for share in (0.5, 0.9, 0.99)},
        "max": ordered[-1] if ordered else 0.0,
    }


def _statements(rounds: Iterable[Round]) -> dict[str, float]:
    rounds = list(rounds)
    shown, relay = (sum(getattr(one.statements, name) for one in rounds) for name in ("pages", "relay"))
    return {"shop or sidecars": shown, "relay": relay, "all": shown + relay}


def _cpu_ms(rounds: Iterable[Round]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for one in rounds:
        total.update({name: seconds * 1000 for name, seconds in one.cpu.items()})
    return {**total, "all": sum(spent for name, spent in total.items() if name not in _NOT_COUNTED)}


def _per_page(total: Mapping[str, float], pages: int) -> dict[str, float]:
    return {name: value / pages if pages else 0.0 for name, value in total.items()}


def _fault(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """Returns what customers saw while something was broken."""
    windows = [(one, one.fault) for one in rounds if one.fault is not None]
    if not windows:
        return None
    shown: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    slow: dict[str, list[float]] = {str(kind): [] for kind in Kind}
    for one, (begin, end) in windows:
        for kind in Kind:
            record = one.record
            during = [
                second * 1000
                for begun, second in zip(record.begun[kind], record.seconds[kind], strict=True)
                if begin <= begun <= end
            ]
            slow[kind] += during
            shown[kind] += len(during)
            failed[kind] += sum(begin <= begun <= end for begun in record.failed[kind])
    return {
        "seconds": sum(end - begin for _, (begin, end) in windows),
        "by_kind": {
            str(kind): {"shown": shown[kind], "failed": failed[kind], "p99": percentile(sorted(slow[kind]), 0.99)}
            for kind in Kind
        },
    }


def _timeline(rounds: Sequence[Round]) -> list[dict[str, float]]:
    """Returns what pages were like over time: their number, those that failed, and percentiles of product pages in ms."""
    width = sum(one.seconds for one in rounds) / _BUCKETS or 1.0
    pages: list[list[float]] = [[] for _ in range(_BUCKETS)]
    counts, failed = [0] * _BUCKETS, [0] * _BUCKETS
    offset = 0.0
    for one in rounds:
        record = one.record
        for kind in PAGES:
            for begun, second in zip(record.begun[kind], record.seconds[kind], strict=True):
                bucket = min(_BUCKETS - 1, int((offset + begun) / width))
                counts[bucket] += 1
                if kind is Kind.PRODUCT:
                    pages[bucket].append(second * 1000)
            for begun in record.failed[kind]:
                failed[min(_BUCKETS - 1, int((offset + begun) / width))] += 1
        offset += one.seconds
    rows = []
    for number in range(_BUCKETS):
        ordered = sorted(pages[number])
        row = {"seconds": number * width, "pages": counts[number], "failed": failed[number]}
        rows.append(row | {"p50": percentile(ordered, 0.5), "p99": percentile(ordered, 0.99)})
    return rows


def _tier_timeline(rounds: Sequence[Round]) -> list[dict[str, float]]:
    """Returns the reads per page that each tier answered between two samples."""
    rows: list[dict[str, float]] = []
    offset = 0.0
    for one in rounds:
        for early, late in zip(one.samples, one.samples[1:], strict=False):
            pages = late.pages - early.pages
            if pages > 0:
                hits: Counter[str] = Counter()
                for (_, tier), count in (late.tiers - early.tiers).items():
                    hits[tier] += count
                rows.append({"seconds": offset + late.seconds, **{tier: count / pages for tier, count in sorted(hits.items())}})
        offset += one.seconds
    return rows


def _figures(one: Round) -> dict[str, float]:
    """Returns what is compared, of one round."""
    found: dict[str, float] = {}
    for kind in PAGES:
        ordered = sorted(one.record.seconds[kind])
        found[f"{kind} page p50"] = percentile(ordered, 0.5)
        found[f"{kind} page p99"] = percentile(ordered, 0.99)
    pages = one.record.pages or 1
    found["statements per page"] = sum(one.statements) / pages
    found["CPU per page"] = _cpu_ms([one])["all"] / pages
    return found


def _ratios(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """Compares the first arm with each other one."""
    if len(results) < 2:
        return []
    goals = {(goal.figure, goal.arm): goal.most for goal in GOALS}
    ours, *others = results
    rows = []
    for other in others:
        for figure in _figures(ours.rounds[0]):
            pairs = [[_figures(one)[figure] for one in result.rounds] for result in (ours, other)]
            found: Ratio | None = ratio(*pairs)
            if found is None:
                continue
            most = goals.get((figure, other.name)) if ours.name == "sidecar" else None
            row = {"figure": figure, "arm": ours.name, "other": other.name, **found._asdict(), "goal": most}
            rows.append(row | {"is_met": None if most is None else found.value <= most})
    return rows


def lines(found: Mapping[str, Any]) -> list[str]:
    """Returns the text of a report."""
    left_out = sum(found["left_out"].values())
    options = found["options"]
    head = (
        f"{found['visits']:,} visits from {found['lines']:,} lines ({left_out:,} are no sales), {found['products']:,} products",
        f"{options['views']} views a line",
        f"{options['concurrency']} shoppers at once",
        f"round trip {options['round_trip_ms']:g} ms",
    )
    text = [", ".join(head)]
    for name, arm in found["arms"].items():
        text += ["", *_arm_lines(name, arm, options["fault"])]
    if found["ratios"]:
        text += ["", *_ratio_lines(found["ratios"], options["rounds"])]
    return [*text, "", found["how"]]


def _arm_lines(name: str, arm: Mapping[str, Any], fault: str) -> list[str]:
    speed = f"{arm['pages']:,} pages in {arm['seconds']:.1f} s, {arm['pages_per_second']:,.0f} a second"
    text = [
        f"{name}: {speed}, {arm['failed_pages']:,} failed",
        f"  {'ms':<14}{'count':>9}{'failed':>8}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    for kind, row in arm["latency_ms"].items():
        if row["count"] or row["failed"]:
            times = "".join(f"{row[name]:>9.2f}" for name in ("p50", "p90", "p99", "max"))
            text.append(f"  {kind:<14}{row['count']:>9,}{row['failed']:>8,}{times}")
    text += [
        f"  statements per page: {_list_values(arm['statements_per_page'], '.3f')}",
        f"  CPU, ms per page:    {_list_values(arm['cpu_ms_per_page'], '.3f')}",
        f"  memory, MiB:         {_list_values(arm['memory_mib'], ',.0f')}",
    ]
    if arm["tiers"]:
        text.append(
            "  hits per page:       "
            + ", ".join(f"{row['dataset']} {row['tier']} {row['per_page']:.3f}" for row in arm["tiers"])
        )
    age = f"{arm['oldest_seconds'] * 1000:.0f} ms after it was replaced (bound {arm['bound_seconds']:g} s)"
    text.append(f"  oldest price shown:  {age}; {arm['marked_stale']:,} pages marked stale")
    for error, count in arm["errors"].items():
        text.append(f"  error:               {error}, {count:,} times")
    if arm["given_up"]:
        text.append(f"  given up:            {arm['given_up']:,} visits or changes")
    if arm["fault"]:
        during = ", ".join(
            f"{kind} {row['failed']:,} of {row['shown'] + row['failed']:,} failed (p99 {row['p99']:.1f} ms)"
            for kind, row in arm["fault"]["by_kind"].items()
            if row["shown"] + row["failed"]
        )
        text.append(f"  {fault}, {arm['fault']['seconds']:.1f} s: {during}")
    for invariant, problem in arm["invariants"].items():
        text.append(f"  {'ok' if not problem else 'BROKEN':<7}{invariant}{f': {problem}' if problem else ''}")
    return text


def _list_values(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _ratio_lines(rows: Sequence[Mapping[str, Any]], rounds: int) -> list[str]:
    text = [f"{rows[0]['arm']} / other, geometric mean of {rounds} rounds with a confidence of 95 %"]
    for row in rows:
        between = "" if row["low"] is None else f"  {row['low']:.3f} to {row['high']:.3f}"
        goal = "" if row["goal"] is None else f"  goal {row['goal']:g}: {'met' if row['is_met'] else 'missed'}"
        text.append(f"  {row['figure']:<22}{row['other']:<8}{row['value']:>8.3f}{between}{goal}")
    return text


def is_sound(found: Mapping[str, Any]) -> bool:
    """Returns whether every invariant holds in every arm, no visit was given up, and no page failed without a fault."""
    arms = found["arms"].values()
    return all(
        not any(arm["invariants"].values()) and not arm["given_up"] and not (arm["failed_pages"] and not arm["fault"])
        for arm in arms
    )
