"""Runs commands until a signal arrives."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from cache_sidecar.core import telemetry

T = TypeVar("T")


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a command on a new event loop. SIGTERM cancels it as Ctrl-C does, so that it can log how far it came.

    Raises KeyboardInterrupt after either.
    """

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await coroutine

    try:
        return uvloop.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def run_until_signalled(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs a command on a new event loop, with an event that SIGTERM and SIGINT set."""

    async def main() -> None:
        stop = asyncio.Event()
        telemetry.log_unhandled(asyncio.get_running_loop())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await run(stop)
        finally:
            telemetry.repeats.report(all=True)

    uvloop.run(main())
