"""`python -m tests.consistency [--minutes N] [--fault NAME] [--engine NAME] [--seed N]`: writes build/consistency.json and prints it."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop
from rich.console import Console

from tests.consistency import report
from tests.consistency.nemesis import FAULTS
from tests.consistency.run import Outcome, run
from tests.consistency.servers import servers
from tests.consistency.stack import ENGINES, running

_FILE = Path("build/consistency.json")
_SIDECARS, _IDLE, _RELAYS = 5, 1, 2


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to break things.")
@click.option("--fault", "faults", type=click.Choice(list(FAULTS)), multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default=None, help="Of all sidecars; if not given, half of them run on each."
)
@click.option("--clients", type=click.IntRange(min=16), default=80, show_default=True, help="How many call at once.")
@click.option("--seed", type=int, default=None, help="Decides the order of the faults and what clients do.")
@click.option("--keep", is_flag=True, help="Leave the logs of all processes, and say where.")
def main(*, minutes: float, faults: Sequence[str], engine: str | None, clients: int, seed: int | None, keep: bool) -> None:
    """Read and write through five sidecars while everything breaks, and check every reply."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    seed = random.randrange(10_000) if seed is None else seed
    console.print(f"seed {seed}", highlight=False)
    engines = ENGINES if engine is None else (engine,)
    outcome = uvloop.run(_run(minutes * 60, faults or tuple(FAULTS), engines, clients, seed, console, keep=keep))
    report.write(outcome, _FILE)
    report.show(outcome, console)
    console.print(f"written to {_FILE}")
    sys.exit(1 if outcome.rules.log.broken else 0)


async def _run(
    seconds: float,
    faults: Sequence[str],
    engines: Sequence[str],
    clients: int,
    seed: int,
    console: Console,
    *,
    keep: bool,
) -> Outcome:
    with console.status("starting the servers") as status:
        async with servers(keep=keep) as own:
            if keep:
                console.print(f"logs: {own.processes.logs}")
            async with running(
                own.processes,
                own.cluster,
                own.postgres,
                dsn=own.postgres.dsn(),
                namespace="cs",
                sidecars=_SIDECARS,
                relays=_RELAYS,
                engines=engines,
                idle=_IDLE,
            ) as stack:
                return await run(stack, seconds=seconds, faults=faults, clients=clients, seed=seed, tell=status.update)


if __name__ == "__main__":
    main()
