"""Replays that are killed and restarted."""

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_TOP = Path(__file__).parents[2]


async def replay(
    file: Path,
    *,
    addresses: Sequence[str],
    tell: Callable[[str], object],
    invoices: int | None = None,
    kill_at: str = "",
    errors: IO[bytes] | None = None,
) -> int:
    """Runs `python -m tests.replay.run` and returns its exit code. `tell` receives each line that it prints.

    It is killed with `kill -9` when a line equals `kill_at`. Its stderr goes to a file, or to this process's stderr.
    """
    options = [part for address in addresses for part in ("--address", address)]
    if invoices is not None:
        options += ["--invoices", str(invoices)]
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.replay.run", str(file.absolute()), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        cwd=_TOP,
    )
    assert run.stdout is not None
    try:
        async for line in run.stdout:
            text = line.decode().rstrip()
            tell(text)
            if text == kill_at:
                run.send_signal(signal.SIGKILL)
                break
        return await run.wait()
    finally:
        with suppress(ProcessLookupError):
            run.kill()
        await run.wait()
