"""The output of `make soak`: for each fault the failed calls, and the sidecar's resources afterwards."""

from rich import box
from rich.console import Console
from rich.table import Table

from tests.failure.outages.load import CART, KINDS, SESSION, WARM, Tally
from tests.soak.mixed import Mixed
from tests.soak.vitals import Vitals

MIB = 1024 * 1024


def publish(console: Console, load: Mixed, taken: list[tuple[str, Vitals]]) -> None:
    """Prints both tables."""
    console.print(_taken(taken), _served(load))


def _taken(taken: list[tuple[str, Vitals]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("after", no_wrap=True)
    for name in ("RSS MiB", "file descriptors", "tasks"):
        table.add_column(name, justify="right", no_wrap=True)
    for moment, vitals in taken:
        table.add_row(moment, f"{vitals.rss / MIB:.1f}", str(vitals.fds), str(vitals.tasks))
    return table


def _served(load: Mixed) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("during", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for kind in KINDS:
        table.add_column(f"{kind} failed", justify="right")
    table.add_column("other calls failed", justify="right")
    table.add_column("warm reads p99 ms", justify="right")
    for phase, tallies in load.phases.items():
        others = [tally for kind, tally in tallies.items() if kind not in KINDS]
        parts = [[tallies[WARM]], [tallies[CART]], [tallies[SESSION]], others]
        calls = sum(len(tally.latencies) for tally in tallies.values())
        table.add_row(phase, f"{calls:,}", *map(_failed, parts), f"{tallies[WARM].p99 * 1000:,.1f}")
    return table


def _failed(tallies: list[Tally]) -> str:
    failed = sum(tally.codes.total() for tally in tallies)
    calls = sum(len(tally.latencies) for tally in tallies)
    return f"{failed / calls:.1%}" if failed else "0"
