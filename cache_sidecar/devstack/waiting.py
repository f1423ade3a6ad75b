"""Waiting for other processes, and concurrent work."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, interval: float = 0.02) -> bool:
    """Polls a condition. Returns True as soon as it holds, or False if it does not after that many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(interval)
    return True


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines concurrently. If one fails, cancels the others and raises its original error."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
