"""`python -m tests.bench [--only NAME] [--quick]`: writes build/bench.json and prints it as a table."""

import signal
import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from tests.bench import admissions, carts, cold_start, engines, inventory, overload, products, report
from tests.bench.comparison import Comparison, compare
from tests.bench.connection import LoadError
from tests.bench.machine import choose_cores, on_core
from tests.bench.processes import BenchError
from tests.bench.stack import Stack

_BUILD = Path("build")
_ROUNDS, _SECONDS = 11, 1.2
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.7


def _comparisons(stack: Stack) -> list[Comparison]:
    """Every comparison there is: a line per file."""
    return [
        *products.comparisons(stack),
        *engines.comparisons(stack),
        *carts.comparisons(stack),
        *inventory.comparisons(stack),
        *overload.comparisons(stack),
        *admissions.comparisons(stack),
        *cold_start.comparisons(stack),
    ]


@click.command()
@click.option("--only", metavar="NAME", help="Run one comparison.")
@click.option("--quick", is_flag=True, help="Few and short rounds: to see that it works, not for figures.")
def main(*, only: str | None, quick: bool) -> None:
    """Compare the sidecar with what could answer in its place."""
    rounds, seconds = (_QUICK_ROUNDS, _QUICK_SECONDS) if quick else (_ROUNDS, _SECONDS)
    console = Console(width=max(Console().width, 110))  # narrower, the figures would be cut
    cores = choose_cores()
    with on_core(cores.load if cores else None), Stack(cores=cores, state=_BUILD / "bench-state") as stack:
        chosen = _choose(_comparisons(stack), only)
        with console.status("starting the servers") as status:
            run = partial(compare, rounds=rounds, seconds=seconds, pinned=cores is not None, tell=status.update)
            results = [run(comparison) for comparison in chosen]
    file = _BUILD / "bench.json"
    report.write(results, file)
    report.show(results, console)
    console.print(f"written to {file}")


def _choose(comparisons: list[Comparison], only: str | None) -> list[Comparison]:
    chosen = [comparison for comparison in comparisons if only in {None, comparison.name}]
    if not chosen:
        names = ", ".join(comparison.name for comparison in comparisons)
        raise click.BadParameter(f"there is no comparison {only!r}; there are {names}", param_hint="--only")
    return chosen


def run(arguments: list[str]) -> int:
    """Returns the exit code: 0 when everything was measured, whether or not a goal was met."""
    try:
        main(arguments, standalone_mode=False)
    except click.UsageError as error:
        print(error.format_message(), file=sys.stderr)
        return 64
    except (BenchError, LoadError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130
    return 0


def _end(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))
