"""`python -m tests.soak [--minutes N]`: load and a fault every 30 s.

Exit code 1 if anything was lost, has grown, or failed without a fault that excuses it.
"""

import asyncio
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from rich.console import Console

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
from tests.failure.outages import (
    test_both_down,
    test_postgres_hung,
    test_postgres_killed,
    test_postgres_restarted,
    test_redis_down,
    test_redis_failing_over,
    test_redis_full,
    test_redis_hung,
    test_redis_one_shard,
    test_redis_refusing_auth,
    test_redis_resharded,
    test_redis_slow,
)
from tests.failure.outages.ground import PATIENCE, Ground, Outage, ground
from tests.failure.outages.load import REFUSALS
from tests.soak.mixed import Mixed
from tests.soak.report import publish
from tests.soak.vitals import Vitals, vitals
from tests.support.free_ports import later_ports
from tests.support.until import until

# In this order: five minutes include ten of them, each of another kind than the one before.
FAULTS: tuple[Outage, ...] = tuple(
    module.OUTAGE
    for module in (
        test_redis_down,
        test_postgres_killed,
        test_redis_failing_over,
        test_both_down,
        test_redis_one_shard,
        test_postgres_hung,
        test_redis_hung,
        test_redis_resharded,
        test_postgres_restarted,
        test_redis_refusing_auth,
        test_redis_slow,
        test_redis_full,
    )
)
# Seconds between the starts of two faults, and the duration of each.
EVERY, LASTS = 30.0, 5.0
# Seconds without a fault before the first one, and after the last one, until pools have shrunk.
MINUTE = 60.0


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="How long things break.")
@click.option("--engine", type=click.Choice(["auto", "native", "aio"]), default="auto", show_default=True)
def main(*, minutes: float, engine: str) -> None:
    """Call one sidecar during faults, and compare its resources at the end with those after the first minute."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    problems = asyncio.run(_run(minutes * MINUTE, engine, console))
    for problem in problems:
        console.print(f"[red]{problem}[/]", highlight=False)
    sys.exit(1 if problems else 0)


async def _run(seconds: float, engine: str, console: Console) -> list[str]:
    async with _ground(engine) as running:
        await running.warm_up()
        load = Mixed(running.sidecar, sorted(running.warm))
        load.begin("calm")
        taken: list[tuple[str, Vitals]] = []

        async def look(moment: str) -> None:
            taken.append((moment, await vitals(running.sidecar, running.pid)))
            console.print(f"{moment}: {taken[-1][1]}", highlight=False)

        async with load.running():
            await asyncio.sleep(MINUTE)
        await look("the first minute")  # without calls in progress, which come and go
        async with load.running():
            until_then = time.monotonic() + seconds
            for fault in itertools.cycle(FAULTS):
                due = time.monotonic() + EVERY
                if due > until_then + 1:
                    break
                await _broken(running, load, fault)
                await look(fault.name)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.sleep(MINUTE)
        await look("the last minute")
        publish(console, load, taken)
        grown = taken[-1][1].grown(taken[0][1])
        return [*grown, *_unexpected(load), *(f"lost: {one}" for one in await load.lost())]


async def _broken(running: Ground, load: Mixed, fault: Outage) -> None:
    load.resume(fault.name)
    try:
        await fault.begin(running)
        await asyncio.sleep(max(LASTS, fault.at_least))
    finally:
        await fault.end(running)
    await until(running.says_so, seconds=PATIENCE)
    load.resume("calm")


def _unexpected(load: Mixed) -> list[str]:
    """Returns a line for each failure that no fault excuses."""
    refuses = {fault.name: fault.refuses for fault in FAULTS}
    return [
        f"{kind} during {phase}: {dict(tally.codes)}, {tally.without_retry_info} of them without RetryInfo"
        for phase, tallies in load.phases.items()
        for kind, tally in tallies.items()
        if (tally.codes and not load.may_fail(kind, refuses.get(phase, ())))
        or not tally.codes.keys() <= REFUSALS
        or tally.without_retry_info
    ]


@asynccontextmanager
async def _ground(engine: str) -> AsyncIterator[Ground]:
    state = StateDirectory(Path(tempfile.mkdtemp(prefix="cache-sidecar-soak-")))
    state.path.chmod(0o711)  # as root, PostgreSQL runs as another user, who has to get through
    state.claim()
    processes = Processes(state)
    try:
        async with ground(processes, later_ports, state.path, is_cluster=True, engine=engine) as running:
            yield running
    finally:
        await processes.stop_all()
        state.release()
        shutil.rmtree(state.path, ignore_errors=True)


if __name__ == "__main__":
    main()
