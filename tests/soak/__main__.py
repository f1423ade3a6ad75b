"""`python -m tests.soak [--minutes N]`: load and a fault every 30 s; exit code 1 when something was lost or has grown."""

import asyncio
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from rich.console import Console

from cache_sidecar.devstack.ports import free_ports
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import BUS
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
from tests.failure.outages.ground import Ground, Outage, ground
from tests.failure.outages.load import KINDS, Load
from tests.soak.vitals import vitals

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
        test_redis_slow,
        test_redis_refusing_auth,
        test_redis_full,
    )
)
# Seconds between the beginnings of two faults, that each lasts, and of calm at the end.
EVERY, LASTS, CALM = 30.0, 5.0, 10.0
MINUTE = 60.0


@click.command()
@click.option("--minutes", type=click.FloatRange(min=2), default=5.0, show_default=True, help="How long.")
def main(*, minutes: float) -> None:
    """Call one sidecar while one thing after the other breaks, and compare what it takes at the end with its first minute."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    problems = asyncio.run(_run(minutes * MINUTE, console))
    for problem in problems:
        console.print(f"[red]{problem}[/]", highlight=False)
    sys.exit(1 if problems else 0)


async def _run(seconds: float, console: Console) -> list[str]:
    async with _ground() as running:
        await running.warm_up()
        load, began = Load(running.sidecar, sorted(running.warm)), time.monotonic()
        load.begin("calm")
        async with load.running():
            await asyncio.sleep(MINUTE)
            before = await vitals(running.sidecar, running.pid)
            console.print(f"after the first minute: {before}", highlight=False)
            for fault in itertools.cycle(FAULTS):
                if time.monotonic() - began + EVERY > seconds:
                    break
                due = time.monotonic() + EVERY
                await _broken(running, load, fault)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                console.print(f"{fault.name}: {await vitals(running.sidecar, running.pid)}", highlight=False)
            await asyncio.sleep(CALM)
        after = await vitals(running.sidecar, running.pid)
        console.print(f"at the end: {after}", highlight=False)
        for phase, tallies in load.phases.items():
            told = ", ".join(
                f"{kind} {len(tallies[kind].latencies):,} ({tallies[kind].error_rate:.2%} failed)" for kind in KINDS
            )
            console.print(f"{phase}: {told}", highlight=False)
        return [*after.grown(before), *(f"lost: {one}" for one in await load.lost())]


async def _broken(running: Ground, load: Load, fault: Outage) -> None:
    load.resume(fault.name)
    try:
        await fault.begin(running)
        await asyncio.sleep(max(LASTS, fault.at_least))
    finally:
        await fault.end(running)
    load.resume("calm")


@asynccontextmanager
async def _ground() -> AsyncIterator[Ground]:
    state = StateDirectory(Path(tempfile.mkdtemp(prefix="cache-sidecar-soak-")))
    state.path.chmod(0o711)  # as root, PostgreSQL is another user who has to pass
    state.claim()
    processes = Processes(state)
    try:
        async with ground(processes, _ports, state.path, is_cluster=True) as running:
            yield running
    finally:
        await processes.stop_all()
        state.release()
        shutil.rmtree(state.path, ignore_errors=True)


def _ports(count: int) -> list[int]:
    first = random.randrange(10_000, 20_000)
    return free_ports(range(first, first + count), beside=BUS)


if __name__ == "__main__":
    main()
