"""The report as one HTML page, in the style of the status page: nothing is loaded, charts are SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cache_sidecar import page as pages

_STYLE = Path(pages.__file__).parent / "files" / "shared.css"
_COLORS = {
    "sidecar": "var(--l1)",
    "direct": "var(--store)",
    "redis": "var(--l2)",
    "l1": "var(--l1)",
    "l2": "var(--l2)",
    "store": "var(--store)",
}
_OWN = """
svg.chart { display: block; width: 100%; height: auto; } svg.chart text { fill: var(--muted); font-size: 11px; }
svg.chart polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } svg.chart line { stroke: var(--line); }
@media (max-width: 800px) { section.half { grid-column: span 12; } }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 200, 52, 24
Series = Mapping[str, Sequence[tuple[float, float]]]


def page(found: Mapping[str, Any]) -> str:
    """Returns the page of a report."""
    arms: Mapping[str, Any] = found["arms"]
    options = found["options"]
    title = f"Replay of {found['visits']:,} visits"
    where = (
        f"{found['products']:,} products, {options['views']} views a line, {options['concurrency']} shoppers at once, "
        f"{options['sidecars']} sidecars, round trip {options['round_trip_ms']:g} ms"
        + (f", {options['fault']}" if options["fault"] else "")
    )
    good = all(not any(arm["invariants"].values()) for arm in arms.values())
    badge = (
        '<span class="badge good">all invariants hold</span>'
        if good
        else '<span class="badge bad">invariants are broken</span>'
    )
    p50 = {name: [(row["seconds"], row["p50"]) for row in arm["timeline"] if row["pages"]] for name, arm in arms.items()}
    p99 = {name: [(row["seconds"], row["p99"]) for row in arm["timeline"] if row["pages"]] for name, arm in arms.items()}
    failed = {name: [(row["seconds"], row["failed"]) for row in arm["timeline"]] for name, arm in arms.items()}
    statements = {name: arm["statements_per_page"]["all"] for name, arm in arms.items()}
    cpu = {name: arm["cpu_ms_per_page"]["all"] for name, arm in arms.items()}
    parts = [
        *(_section(f"Pages: {name}", _latencies(arm)) for name, arm in arms.items()),
        _section("Product pages, median in ms", _lines(p50), half=True),
        _section("Product pages, 99th percentile in ms", _lines(p99), half=True),
        _section("Statements per page", _bars(statements), half=True),
        _section("CPU per page, ms", _bars(cpu), half=True),
        _section("Failed pages", _lines(failed), half=True),
        *(
            _section(f"Reads per page by tier: {name}", _lines(_tiers(arm)), half=True)
            for name, arm in arms.items()
            if arm["tier_timeline"]
        ),
        *([_section("Ratios", _ratios(found["ratios"]))] if found["ratios"] else []),
        *(_section(f"What it took: {name}", _usage(arm), half=True) for name, arm in arms.items()),
        *(_section(f"Invariants: {name}", _invariants(arm), half=True) for name, arm in arms.items()),
        f'<section><p class="note">{escape(found["how"])}</p></section>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}{_OWN}</style></head><body>"
        f'<header><div><h1>{escape(title)}</h1><p class="where">{escape(where)}</p>{badge}</div></header>'
        f"<main>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, content: str, *, half: bool = False) -> str:
    return f"<section{' class=half' if half else ''}><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def _latencies(arm: Mapping[str, Any]) -> str:
    rows = [
        [kind, f"{row['count']:,}", f"{row['failed']:,}", *(f"{row[name]:.2f}" for name in ("p50", "p90", "p99", "max"))]
        for kind, row in arm["latency_ms"].items()
        if row["count"] or row["failed"]
    ]
    return _table(["in ms", "count", "failed", "p50", "p90", "p99", "max"], rows)


def _usage(arm: Mapping[str, Any]) -> str:
    cpu, memory = arm["cpu_ms_per_page"], arm["memory_mib"]
    rows = [[name, f"{cpu[name]:.3f}", f"{memory[name]:,.0f}" if name in memory else ""] for name in cpu]
    table = _table(["process", "CPU, ms per page", "memory, MiB"], rows)
    tiers = [[f"{row['dataset']} {row['tier']}", f"{row['hits']:,}", f"{row['per_page']:.3f}"] for row in arm["tiers"]]
    errors = [[error, f"{count:,}"] for error, count in arm["errors"].items()]
    statements = [[name, f"{value:.3f}"] for name, value in arm["statements_per_page"].items()]
    return (
        table
        + _table(["statements", "per page"], statements)
        + (_table(["reads by tier", "hits", "per page"], tiers) if tiers else "")
        + (_table(["errors", "times"], errors) if errors else "")
    )


def _invariants(arm: Mapping[str, Any]) -> str:
    return _table(["invariant", ""], [[name, problem or "holds"] for name, problem in arm["invariants"].items()])


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    made = []
    for row in rows:
        between = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        goal = "" if row["goal"] is None else f"{row['goal']:g}: {'met' if row['is_met'] else 'missed'}"
        made.append([row["figure"], f"{row['arm']} / {row['other']}", f"{row['value']:.3f}", between, goal])
    return _table(["figure", "arms", "ratio", "confidence of 95 %", "goal, at most"], made)


def _tiers(arm: Mapping[str, Any]) -> Series:
    rows = arm["tier_timeline"]
    names = sorted({name for row in rows for name in row} - {"seconds"})
    return {name: [(row["seconds"], row.get(name, 0.0)) for row in rows] for name in names}


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<text x="{_LEFT + 90 * number}" y="12" style="fill:{_COLORS.get(name, "var(--accent)")}">{escape(name)}</text>'
        for number, name in enumerate(names)
    )
    return f"<g>{items}</g>"


def _lines(series: Series) -> str:
    """Draws lines over seconds."""
    points = [point for one in series.values() for point in one]
    right = max((x for x, _ in points), default=0.0) or 1.0
    top = max((y for _, y in points), default=0.0) or 1.0
    drawn = []
    for name, one in series.items():
        path = " ".join(
            f"{_LEFT + x / right * (_WIDTH - _LEFT):.1f},{_HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - 20):.1f}"
            for x, y in one
        )
        drawn.append(f'<polyline points="{path}" style="stroke:{_COLORS.get(name, "var(--accent)")}"/>')
    foot = _HEIGHT - _BOTTOM
    tops = {name: max((y for _, y in one), default=0.0) for name, one in series.items()}
    label = escape(", ".join(f"{name}: up to {most:,.2f}" for name, most in tops.items()))
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{_legend(list(series))}'
        f'<line x1="{_LEFT}" y1="{foot}" x2="{_WIDTH}" y2="{foot}"/>'
        f'<text x="0" y="30">{top:,.2f}</text><text x="0" y="{foot}">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">0 s</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{right:,.0f} s</text>'
        f"{''.join(drawn)}</svg>"
    )


def _bars(values: Mapping[str, float]) -> str:
    """Draws a bar for each value."""
    most = max(values.values(), default=0.0) or 1.0
    rows = []
    for number, (name, value) in enumerate(values.items()):
        y = 10 + 34 * number
        length = value / most * (_WIDTH - 170)
        rows.append(
            f'<text x="0" y="{y + 15}">{escape(name)}</text>'
            f'<rect x="70" y="{y}" width="{length:.1f}" height="20" rx="3" style="fill:{_COLORS.get(name, "var(--accent)")}"/>'
            f'<text x="{76 + length:.1f}" y="{y + 15}">{value:,.3f}</text>'
        )
    label = escape(", ".join(f"{name} {value:,.3f}" for name, value in values.items()))
    height = 20 + 34 * len(values)
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(rows)}</svg>'
