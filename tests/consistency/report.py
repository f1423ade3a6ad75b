"""What a consistency run prints and writes."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.consistency.load import Tally
from tests.consistency.run import Outcome


def write(outcome: Outcome, file: Path) -> None:
    """Writes all figures as JSON, over those of an earlier run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_json(outcome), indent=2) + "\n")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Returns all figures; times in seconds, rates from 0 to 1."""
    checker = outcome.checker
    return {
        "seconds": round(outcome.seconds, 1),
        "clients": outcome.clients,
        "seed": outcome.seed,
        "reads": checker.reads,
        "violations": checker.broken,
        "bounds": checker.bounds._asdict(),
        "max_staleness": max(tally.behind for tally in outcome.tallies.values()),
        "max_staleness_marked": max(tally.stale_behind for tally in outcome.tallies.values()),
        "faults": [_fault(name, tally) for name, tally in outcome.tallies.items()],
        "examples": [one._asdict() | {"read": one.read._asdict()} for one in checker.violations],
    }


def _fault(name: str, tally: Tally) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": round(tally.seconds, 1),
        "reads": tally.reads,
        "calls": tally.calls,
        "failed": tally.failed,
        "error_rate": tally.failed / max(1, tally.calls),
        "writes": tally.writes,
        "failed_writes": tally.failed_writes,
        "marked_stale": tally.stale / max(1, tally.reads),
        "max_staleness": tally.behind,
        "max_staleness_marked": tally.stale_behind,
        "reasons": dict(tally.reasons),
    }


def show(outcome: Outcome, console: Console) -> None:
    """Prints them as a table, and below it the verdict."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("while", no_wrap=True)
    for column in ("seconds", "reads", "calls failed", "writes", "failed", "stale", "behind ms", "stale ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, tally in outcome.tallies.items():
        table.add_row(name, *_figures(tally))
    table.add_section()
    table.add_row("all", *_figures(_total(outcome)), style="bold")
    console.print(table)
    checker = outcome.checker
    for violation in checker.violations[:5]:
        console.print(f"[red]{violation}[/]", highlight=False)
    bounds = checker.bounds
    colour, count = ("red", f"{checker.broken:,}") if checker.broken else ("green", "no")
    console.print(
        f"{checker.reads:,} reads checked, [{colour}]{count} violations[/]. Bounds: {bounds.told:g} s after an acknowledged write, "
        f"{bounds.seen:g} s after any other, and {bounds.stale:g} s more if marked stale.",
        highlight=False,
        soft_wrap=True,
    )


def _figures(tally: Tally) -> list[str]:
    return [
        f"{tally.seconds:.0f}",
        f"{tally.reads:,}",
        f"{tally.failed / max(1, tally.calls):.2%}",
        f"{tally.writes:,}",
        f"{tally.failed_writes / max(1, tally.writes + tally.failed_writes):.2%}",
        f"{tally.stale / max(1, tally.reads):.2%}",
        f"{tally.behind * 1000:,.0f}",
        f"{tally.stale_behind * 1000:,.0f}" if tally.stale else "-",
    ]


def _total(outcome: Outcome) -> Tally:
    total = Tally()
    for tally in outcome.tallies.values():
        total.seconds += tally.seconds
        total.calls += tally.calls
        total.failed += tally.failed
        total.reads += tally.reads
        total.stale += tally.stale
        total.writes += tally.writes
        total.failed_writes += tally.failed_writes
        total.behind = max(total.behind, tally.behind)
        total.stale_behind = max(total.stale_behind, tally.stale_behind)
    return total
