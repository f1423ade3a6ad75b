"""The output of a consistency run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.consistency.load import Tally
from tests.consistency.run import Outcome

# Violations that are printed, of each rule of each dataset.
SHOWN = 2
DATASETS = ("product", "cart", "inventory", "session")


def write(outcome: Outcome, file: Path) -> None:
    """Writes all figures as JSON, over those of an earlier run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_json(outcome), indent=2, default=str) + "\n")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Returns all figures; times in seconds, rates from 0 to 1."""
    rules = outcome.rules
    return {
        "seconds": round(outcome.seconds, 1),
        "clients": outcome.clients,
        "seed": outcome.seed,
        "reads": rules.reads,
        "violations": rules.log.broken,
        "broken": {f"{dataset}: {rule}": count for (dataset, rule), count in sorted(rules.log.counts.items())},
        "bounds": {
            "product": rules.products.bounds._asdict(),
            "cart": rules.carts.bounds._asdict(),
            "inventory": rules.stock.bounds._asdict(),
            "session": rules.sessions.bounds._asdict(),
        },
        "checked": {
            "changes of carts": rules.changes.checked,
            "reservations": rules.pieces.grants,
            "messages of streams": sum(stream.delivered for stream in rules.streams),
        },
        "faults": [
            {
                "name": fault,
                "seconds": round(outcome.during[fault], 1),
                "datasets": {dataset: _figures_of(tally) for dataset, tally in tallies.items()},
            }
            for fault, tallies in outcome.tallies.items()
        ],
        "logged": dict(outcome.errors.most_common(20)),
        "examples": [one._asdict() for one in rules.log.kept],
    }


def _figures_of(tally: Tally) -> dict[str, Any]:
    return {
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
    """Prints them as two tables, and below them the verdict."""
    by_fault = {fault: _sum(tallies.values()) for fault, tallies in outcome.tallies.items()}
    table = _table("while", "seconds")
    for fault, tally in by_fault.items():
        table.add_row(fault, f"{outcome.during[fault]:.0f}", *_figures(tally))
    table.add_section()
    table.add_row("all", f"{outcome.seconds:.0f}", *_figures(_sum(by_fault.values())), style="bold")
    console.print(table)
    table = _table("of", "violations")
    log = outcome.rules.log
    for dataset in DATASETS:
        broken = sum(count for (of, _), count in log.counts.items() if of == dataset)
        tally = _sum(tallies[dataset] for tallies in outcome.tallies.values() if dataset in tallies)
        table.add_row(dataset, f"{broken:,}", *_figures(tally))
    console.print(table)
    _verdict(outcome, console)


def _verdict(outcome: Outcome, console: Console) -> None:
    rules, log = outcome.rules, outcome.rules.log
    for (dataset, rule), count in sorted(log.counts.items()):
        console.print(f"[red]{dataset}: {rule}: {count:,}[/]", highlight=False)
        for one in [one for one in log.kept if (one.dataset, one.rule) == (dataset, rule)][:SHOWN]:
            console.print(f"  {one}", highlight=False, soft_wrap=True, markup=False)
    for event, times in outcome.errors.most_common(5):
        console.print(f"logged as an error, {times:,} times: {event}", highlight=False, soft_wrap=True, markup=False)
    colour, count = ("red", f"{log.broken:,}") if log.broken else ("green", "no")
    bounds = rules.products.bounds
    console.print(
        f"{rules.reads:,} reads, {rules.changes.checked:,} changes of carts, {rules.pieces.grants:,} reservations and "
        f"{sum(stream.delivered for stream in rules.streams):,} messages of {len(rules.streams)} streams checked, "
        f"[{colour}]{count} violations[/]. Bounds: {bounds.told:g} s after an acknowledged write, "
        f"{bounds.seen:g} s after any other; of products {bounds.stale:g} s more if marked stale.",
        highlight=False,
        soft_wrap=True,
    )


def _table(*first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column(first[0], no_wrap=True)
    for column in (*first[1:], "reads", "calls failed", "writes", "failed", "stale", "behind ms", "stale ms"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _figures(tally: Tally) -> list[str]:
    return [
        f"{tally.reads:,}",
        f"{tally.failed / max(1, tally.calls):.2%}",
        f"{tally.writes:,}",
        f"{tally.failed_writes / max(1, tally.writes + tally.failed_writes):.2%}",
        f"{tally.stale / max(1, tally.reads):.2%}",
        f"{tally.behind * 1000:,.0f}",
        f"{tally.stale_behind * 1000:,.0f}" if tally.stale else "-",
    ]


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
