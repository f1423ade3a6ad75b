"""Long-running commands end by a signal."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop

from cache_sidecar.core import telemetry


def run_until_signalled(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs a command on a loop of its own, with an event that SIGTERM and SIGINT set."""

    async def main() -> None:
        stop = asyncio.Event()
        telemetry.hear_everything(asyncio.get_running_loop())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(stop)

    uvloop.run(main())
