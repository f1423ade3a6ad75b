"""The output of `make hostile`, also in build/hostile.json: the sidecar's memory, and the latencies of honest callers."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.contract.hostile.others import KINDS

FILE = Path("build/hostile.json")
MIB = 1024 * 1024


class Report:
    """The attacks that were made."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def publish(self) -> None:
        """Writes and prints all of it."""
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(self.rows, indent=2) + "\n")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("attack", "engine"):
            table.add_column(heading, no_wrap=True)
        for heading in (
            "MiB before",
            "at most more",
            *(f"{kind} ms {when}" for kind in KINDS for when in ("before", "during")),
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            memory = f"{row['rss_before'] / MIB:,.0f}", f"{row['rss_growth'] / MIB:,.0f}"
            times = [f"{row[when][kind]['p50']:,.1f} / {row[when][kind]['p99']:,.1f}" for kind in KINDS for when in _PHASES]
            table.add_row(row["attack"], row["engine"], *memory, *times)
        Console(width=140).print(table)
        Console().print(f"latencies are p50 / p99; written to {FILE}")


_PHASES = ("before", "during")
