"""`python -m tests.replay FILE`: starts servers and two sidecars, replays FILE, kills that at a random point, and runs it again.

FILE is in the UCI Online Retail format, plain or gzip. Exit code 1 if a stock differs from what the file implies.
"""

import asyncio
import json
import random
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import click

from tests.bench.processes import running
from tests.replay.killed import replay
from tests.replay.orders import invoices
from tests.replay.run import PAGE

_DEV = ("cache_sidecar", "dev", "--sidecars", "2", "--products", "1", "--listen", "127.0.0.1:0")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seed", type=int, help="Decides where it is killed; by chance if not given.")
def main(file: Path, seed: int | None) -> None:
    """Replay the orders of FILE, killed at a random point and run again."""
    seed = random.randrange(10**6) if seed is None else seed
    killed_after = PAGE * random.Random(seed).randint(1, max(1, len(invoices(file)) // PAGE - 1))
    with tempfile.TemporaryDirectory(prefix="cs-replay-") as directory:
        state = Path(directory) / "state"
        click.echo("starting the servers")
        with running("dev", [*_DEV, "--state", str(state)], core=None, directory=Path(directory)) as process:
            process.wait_until((state / "dev.json").exists)
            found = json.loads((state / "dev.json").read_text())
            code = asyncio.run(_twice(file, [one["grpc"] for one in found["sidecars"]], killed_after, seed))
    sys.exit(code)


async def _twice(file: Path, addresses: list[str], killed_after: int, seed: int) -> int:
    def tell(line: str) -> None:
        if not line.startswith("booked"):
            click.echo(line)

    await replay(file, addresses=addresses, tell=tell, kill_at=f"booked {killed_after}")
    click.echo(f"killed after {killed_after} invoices (--seed {seed}); once more")
    return await replay(file, addresses=addresses, tell=tell)


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # So that started servers are stopped.
    signal.signal(signal.SIGTERM, _end)
    main()
