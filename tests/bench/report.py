"""The benchmark's output."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.comparison import Measured, Result, Unmeasured, median

_BUSY_LOAD = 0.9
_BUSY_SERVER = 0.85
_NOISY = 0.1


def write(results: Sequence[Result | Unmeasured], file: Path) -> None:
    """Writes the results as JSON, replacing those of an earlier run atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [result.entry() | {"doubts": doubts(result)} for result in results]
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(entries, indent=2) + "\n")
    unfinished.replace(file)


def line(result: Result | Unmeasured) -> str:
    """Returns the line that is printed after each comparison."""
    if isinstance(result, Unmeasured):
        return f"{result.name}: {_why(result)}: {escape(result.reason)}"
    return f"{result.name}: {result.ratio:.2f}, goal {result.goal:.2f} {_verdict(result)}"


def show(results: Sequence[Result | Unmeasured], console: Console, *, reference: str = "reference") -> None:
    """Prints the results as a table per unit, then reasons for doubt and the number of goals that were met."""
    for unit in dict.fromkeys(result.unit for result in results):
        console.print(_table(unit, [result for result in results if result.unit == unit], reference))
    for result in results:
        for doubt in doubts(result):
            console.print(f"{result.name}: {escape(doubt)}", highlight=False, soft_wrap=True)
    missed = [result.name for result in results if isinstance(result, Result) and not result.is_met]
    unmeasured = [result.name for result in results if isinstance(result, Unmeasured) and not result.is_skipped]
    skipped = [result.name for result in results if isinstance(result, Unmeasured) and result.is_skipped]
    parts = [f"{len(results) - len(missed) - len(unmeasured) - len(skipped)} of {len(results)} met their goals"]
    parts += [f"missed: {', '.join(missed)}"] if missed else []
    parts += [f"not measured: {', '.join(unmeasured)}"] if unmeasured else []
    parts += [f"skipped: {', '.join(skipped)}"] if skipped else []
    console.print("; ".join(parts), highlight=False, soft_wrap=True)


def _why(result: Unmeasured) -> str:
    return "skipped" if result.is_skipped else "not measured"


def _verdict(result: Result) -> str:
    return ("[green]met" if result.is_met else "[red]missed") + ("?[/]" if doubts(result) else "[/]")


def _table(unit: str, results: Sequence[Result | Unmeasured], reference: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("medians", no_wrap=True)
    for column in (unit, "p50 us", "p99 us", "CPU ms", "by CPU", "ratio", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        name = result.name if result.by == "calls" else f"{result.name} ({result.by})"
        if isinstance(result, Unmeasured):
            table.add_row(name, *[""] * 6, f"{result.goal:.2f} [red]{_why(result)}[/]", end_section=True)
            continue
        ratios = (f"{result.cpu_ratio:.2f}", f"[bold]{result.ratio:.2f}[/]", f"{result.goal:.2f} {_verdict(result)}")
        spread = f"{min(result.ratios):.2f}-{max(result.ratios):.2f}"
        table.add_row(name, *_figures(result.ours), *ratios)
        table.add_row(f"  {reference}", *_figures(result.reference), "", spread, end_section=True)
    return table


def _figures(rounds: Sequence[Measured]) -> list[str]:
    forms = {"calls_per_second": ",.0f", "p50_us": ",.0f", "p99_us": ",.0f", "cpu_s_per_1000": ".3f"}
    return [f"{median(rounds, name):{form}}" for name, form in forms.items()]


def doubts(result: Result | Unmeasured) -> list[str]:
    """Returns reasons to doubt a result, or why there is none."""
    if isinstance(result, Unmeasured):
        return [result.reason]
    found = [] if result.pinned else ["not pinned: one core, or no way to pin; the ratio says little"]
    for side, rounds in {"ours": result.ours, "the reference": result.reference}.items():
        if median(rounds, "load_busy") > _BUSY_LOAD and median(rounds, "own") < _BUSY_SERVER:
            found.append(f"the load's core was the limit of {side}, which used {median(rounds, 'own'):.0%} of its own")
        if (foreign := median(rounds, "foreign")) > _NOISY:
            found.append(f"other programs took {foreign:.0%} of the core under test from {side}")
    return found
