"""The output of `make failure`, also in build/failure.json: the share of failed calls, and the p99, in each phase."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.failure.outages.load import KINDS, Load, Tally

FILE = Path("build/failure.json")
PHASES = ("before", "during", "after")


class Report:
    """The outages that were tried."""

    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}

    def add(self, outage: str, load: Load) -> None:
        """Takes what came of an outage."""
        self._loads[outage] = load

    def publish(self) -> None:
        """Writes and prints all of it."""
        FILE.parent.mkdir(parents=True, exist_ok=True)
        rows = [_row(outage, kind, load) for outage, load in self._loads.items() for kind in KINDS]
        FILE.write_text(json.dumps(rows, indent=2) + "\n")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("outage", no_wrap=True)
        table.add_column("calls", no_wrap=True)
        for phase in PHASES:
            table.add_column(f"{phase}: failed", justify="right", no_wrap=True)
            table.add_column("p99 ms", justify="right", no_wrap=True)
        for outage, load in self._loads.items():
            for kind in KINDS:
                cells = [cell for phase in PHASES for cell in _cells(load.phases[phase][kind])]
                table.add_row(outage if kind == KINDS[0] else "", kind, *cells)
        Console(width=120).print(table)
        Console().print(f"written to {FILE}")


def _cells(tally: Tally) -> tuple[str, str]:
    return f"{tally.error_rate:.1%}", f"{tally.p99 * 1000:,.1f}"


def _row(outage: str, kind: str, load: Load) -> dict[str, object]:
    phases = {
        phase: {
            "calls": len(tally.latencies),
            "error_rate": tally.error_rate,
            "p99_seconds": tally.p99,
            "errors": {code.name: number for code, number in tally.codes.items()},
        }
        for phase in PHASES
        for tally in [load.phases[phase][kind]]
    }
    return {"outage": outage, "calls": kind, **phases}
