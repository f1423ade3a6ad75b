"""Waiting for what other processes do."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, interval: float = 0.02) -> bool:
    """Returns True as soon as the condition holds, or False when it still does not after that many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(interval)
    return True


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Does all of it at the same time. When one fails, cancels the others and raises its error, as it was."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
