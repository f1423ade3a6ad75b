"""`python -m tests.bench [--only PATTERN] [--quick] [--base REF]`: writes build/bench.json and prints it as a table."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import click
from rich.console import Console

from tests.bench import (
    admissions,
    carts,
    clients,
    cold_start,
    engines,
    inventory,
    metadata,
    observing,
    overload,
    products,
    report,
    scrape,
    versions,
)
from tests.bench.comparison import Comparison, Result, Unmeasured, attempt, versus
from tests.bench.connection import LoadError
from tests.bench.machine import Cores, choose_cores, on_core
from tests.bench.processes import BenchError
from tests.bench.stack import Stack

_BUILD = Path("build")
_ROUNDS, _SECONDS = 11, 1.2
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.7


def _comparisons(stack: Stack) -> list[Comparison]:
    """Every comparison, by module."""
    return [
        *products.comparisons(stack),
        *engines.comparisons(stack),
        *metadata.comparisons(stack),
        *carts.comparisons(stack),
        *inventory.comparisons(stack),
        *overload.comparisons(stack),
        *admissions.comparisons(stack),
        *cold_start.comparisons(stack),
        *observing.comparisons(stack),
        *scrape.comparisons(stack),
        *clients.comparisons(stack),
    ]


@click.command()
@click.option("--only", metavar="PATTERN", help="Run the comparisons whose names match, as in 'l1_hit_*'; several with commas.")
@click.option("--quick", is_flag=True, help="Few and short rounds: to see that it works, not for figures.")
@click.option("--base", metavar="REF", help="Compare with the same of another commit, instead of with the references.")
def main(*, only: str | None, quick: bool, base: str | None) -> None:
    """Compare the sidecar with alternatives, or with another commit."""
    rounds, seconds = (_QUICK_ROUNDS, _QUICK_SECONDS) if quick else (_ROUNDS, _SECONDS)
    console = Console(width=max(Console().width, 110))  # a narrower table would truncate figures
    cores = choose_cores()
    file = _BUILD / ("bench-compare.json" if base else "bench.json")
    results: list[Result | Unmeasured] = []
    with on_core(cores.load if cores else None), _chosen(only, base, cores) as chosen:
        # Results so far are kept and printed, whatever ends the run.
        try:
            with console.status("starting the servers") as status:
                for comparison in chosen:
                    pinned = cores is not None
                    results.append(attempt(comparison, rounds=rounds, seconds=seconds, pinned=pinned, tell=status.update))
                    report.write(results, file)
                    console.print(report.line(results[-1]), highlight=False, soft_wrap=True)
        finally:
            report.show(results, console, reference=base or "reference")
    console.print(f"written to {file}")
    if any(isinstance(result, Unmeasured) and not result.is_skipped for result in results):
        raise BenchError("not everything could be measured")


@contextmanager
def _chosen(only: str | None, base: str | None, cores: Cores | None) -> Iterator[list[Comparison]]:
    """Yields the comparisons to make; with `base`, each compares this version with that one, which has its own servers."""
    with ExitStack() as running:
        ours = choose(_comparisons(running.enter_context(Stack(cores=cores, state=_BUILD / "bench-state"))), only)
        if base is None:
            yield ours
            return
        code = versions.unpacked(base, _BUILD / "bench-base")
        stack = running.enter_context(Stack(cores=cores, state=_BUILD / "bench-base-state", code=code))
        theirs = {comparison.name: comparison for comparison in _comparisons(stack)}
        yield [versus(comparison, theirs[comparison.name]) for comparison in ours]


def choose(comparisons: Sequence[Comparison], only: str | None) -> list[Comparison]:
    patterns = (only or "*").split(",")
    chosen = [comparison for comparison in comparisons if any(fnmatchcase(comparison.name, pattern) for pattern in patterns)]
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
    # So that started servers are stopped.
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))
