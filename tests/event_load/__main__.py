"""`python -m tests.event_load`: user events at a rate while things are killed. Exit code 1 if one was lost or doubled."""

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from tests.consistency.servers import servers
from tests.event_load.run import Result, measure


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="How long events are written.")
@click.option("--rate", type=click.FloatRange(min=1), default=5000.0, show_default=True, help="Events a second.")
@click.option("--batch", type=click.IntRange(1, 500), default=50, show_default=True, help="Events in a call.")
@click.option(
    "--kill-every", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Seconds from one back to the next."
)
@click.option("--engine", type=click.Choice(["auto", "native", "aio"]), default="auto", show_default=True)
def main(*, seconds: float, rate: float, batch: int, kill_every: float, engine: str) -> None:
    """Write events through one sidecar, and kill it, the relay and a primary of Redis by turns."""
    result = asyncio.run(_run(seconds=seconds, rate=rate, batch=batch, kill_every=kill_every, engine=engine))
    for line in result.lines():
        click.echo(line)
    sys.exit(1 if result.lost or result.doubled else 0)


async def _run(*, seconds: float, rate: float, batch: int, kill_every: float, engine: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        async with servers() as running:
            return await measure(
                running.cluster,
                running.postgres,
                Path(folder),
                seconds=seconds,
                rate=rate,
                batch=batch,
                kill_every=kill_every,
                engine=engine,
            )


if __name__ == "__main__":
    main()
