"""`python -m tests.consistency [--minutes N] [--fault NAME] [--seed N]`: writes build/consistency.json and prints it as a table."""

import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop
from rich.console import Console

from cache_sidecar.devstack.ports import free_ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import BUS, ValkeyCluster
from cache_sidecar.settings import ROLES
from cache_sidecar.store.migrate import migrate
from tests.consistency import report
from tests.consistency.nemesis import FAULTS
from tests.consistency.run import Outcome, run
from tests.consistency.stack import running

_FILE = Path("build/consistency.json")
_SIDECARS, _RELAYS = 4, 2


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to break things.")
@click.option("--fault", "faults", type=click.Choice(list(FAULTS)), multiple=True, help="Only this one; may be repeated.")
@click.option("--seed", type=int, default=None, help="Decides the order of the faults and what clients do.")
@click.option("--keep", is_flag=True, help="Leave the logs of all processes, and say where.")
def main(*, minutes: float, faults: Sequence[str], seed: int | None, keep: bool) -> None:
    """Read and write through four sidecars while everything breaks, and check every reply."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    seed = random.randrange(10_000) if seed is None else seed
    console.print(f"seed {seed}", highlight=False)
    outcome = uvloop.run(_run(minutes * 60, faults or tuple(FAULTS), seed, console, keep=keep))
    report.write(outcome, _FILE)
    report.show(outcome, console)
    console.print(f"written to {_FILE}")
    sys.exit(1 if outcome.checker.broken else 0)


async def _run(seconds: float, faults: Sequence[str], seed: int, console: Console, *, keep: bool) -> Outcome:
    state = StateDirectory(Path(tempfile.mkdtemp(prefix="cache-sidecar-consistency-")))
    state.path.chmod(0o711)  # as root, PostgreSQL is another user who has to pass
    state.claim()
    processes = Processes(state)
    try:
        with console.status("starting the servers") as status:
            cluster = ValkeyCluster(processes, state.path / "valkey", _ports(6))
            # Nothing kills the machine, so nothing has to survive that.
            settings = {"fsync": "off", "max_connections": "200"}
            postgres = Postgres(processes, state.path / "postgres", _ports(1)[0], settings=settings)
            await asyncio.gather(cluster.start(), postgres.start())
            for role in ROLES:
                await migrate(postgres.dsn(), role)
            async with running(
                processes, cluster, postgres, dsn=postgres.dsn(), namespace="cs", sidecars=_SIDECARS, relays=_RELAYS
            ) as stack:
                return await run(stack, seconds=seconds, faults=faults, seed=seed, tell=status.update)
    finally:
        await processes.stop_all()
        state.release()
        if keep:
            console.print(f"logs: {processes.logs}")
        else:
            shutil.rmtree(state.path, ignore_errors=True)


def _ports(count: int) -> list[int]:
    first = random.randrange(10_000, 20_000)
    return free_ports(range(first, first + count), beside=BUS)


if __name__ == "__main__":
    main()
