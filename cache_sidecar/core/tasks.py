"""Tasks that somebody holds, and ends; and whose exceptions somebody hears."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SidecarError


class BackgroundTasks:
    """Work that goes on until it is stopped."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts work that never ends by itself; if it does, that is a defect, and said."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(log_failure)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Ends all of it, and returns when it has ended."""
        for task in self._tasks:
            await cancel_and_wait(task)


def log_failure(task: asyncio.Task[Any]) -> None:
    """Hears what ended a task that nobody waits for, or waits for any more; to be added as its done callback.

    What is raised on purpose was for a caller who left, and whatever failed has said so where it failed. Anything else is a
    defect, and logged.
    """
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, SidecarError):
        telemetry.log.error("background work failed", task=task.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end. Again and again: redis-py swallows a cancellation that meets it connecting."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    await asyncio.gather(task, return_exceptions=True)
