"""The way to wait in a test: poll a condition, with a limit that only a hang reaches."""

import asyncio
from typing import Any

# Seconds after which something is considered hung: several sidecars starting together on a busy machine take half of it.
DEADLINE = 60.0


async def until(condition: Any, *, seconds: float = DEADLINE) -> Any:
    """Polls until `condition()` (plain or awaitable) is true, and returns its result; fails after that many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert loop.time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
