"""Background tasks: one holder for them, and one loop for what is repeated.

asyncio keeps only a weak reference to a task, and an exception in a task that nobody awaits is lost. So whoever starts a task
starts it with a `BackgroundTasks`, which keeps it until it ends, logs its failure, and stops it.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, NoReturn, ParamSpec, TypeVar

from cache_sidecar.core import telemetry, tracing
from cache_sidecar.core.errors import SidecarError
from cache_sidecar.core.log_limit import LogLimit

P = ParamSpec("P")
T = TypeVar("T")

# Seconds after which a task that is still running is cancelled again.
CANCEL_EVERY = 0.1


class BackgroundTasks:
    """The background tasks of one owner."""

    def __init__(self, *, max_running: int | None = None) -> None:
        """`max_running` bounds what `try_spawn` and `once` start; `spawn` and `poll` are not bounded."""
        self.running: set[asyncio.Task[Any]] = set()
        self._max_running = max_running
        self._busy: dict[Hashable, asyncio.Task[None]] = {}

    def spawn(self, work: Coroutine[Any, Any, T], *, log_failures: bool = True) -> asyncio.Task[T]:
        """Starts work. Its failure is logged unless the caller, who awaits the task, reports it: `log_failures`."""
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        if log_failures:
            task.add_done_callback(log_failure)
        return task

    def try_spawn(self, work: Coroutine[Any, Any, None]) -> bool:
        """Starts work unless `max_running` tasks are running; returns whether it did."""
        if self._is_full():
            work.close()  # or Python warns that it was never awaited
            return False
        self.spawn(work)
        return True

    def once(self, key: Hashable, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Starts work unless work with the same key, or `max_running` tasks, are running."""
        # `done`, because a task's callbacks run later than its end: work that has ended does not see what the caller in between
        # has to be done for, and nobody may ask again.
        last = self._busy.get(key)
        if (last is not None and not last.done()) or self._is_full():
            return

        def forget(done: asyncio.Task[None]) -> None:
            if self._busy.get(key) is done:
                del self._busy[key]

        self._busy[key] = self.spawn(work(*args, **kwargs))
        self._busy[key].add_done_callback(forget)

    def poll(
        self, every: float | Callable[[], float], work: Callable[[], Awaitable[object] | object], *, delay: float = 0.0
    ) -> None:
        """Runs work every `every` seconds, for the first time after `delay`; see the function `poll`."""
        self.spawn(poll(every, work, delay=delay))

    async def join(self) -> None:
        """Returns when no task is running, including those that tasks have started meanwhile."""
        while self.running:
            # Unlike `gather`, `wait` leaves the tasks alone when its caller is cancelled.
            await asyncio.wait(self.running)

    async def stop(self) -> None:
        """Cancels all tasks, and returns when they have ended."""
        while self.running:
            # More than once: redis-py swallows a cancellation that arrives while it connects.
            for task in self.running:
                task.cancel()
            await asyncio.wait(self.running, timeout=CANCEL_EVERY)

    def _is_full(self) -> bool:
        return self._max_running is not None and len(self.running) >= self._max_running


async def poll(
    every: float | Callable[[], float], work: Callable[[], Awaitable[object] | object], *, delay: float = 0.0
) -> NoReturn:
    """Runs work, sleeps for `every` seconds, and so on until cancelled; `every` may be a function, called after each run.

    A failure does not end the loop. A SidecarError was reported where it arose; any other is a defect, logged once until a run
    succeeds.
    """
    limit = LogLimit()
    tracing.enter(None)  # whoever starts the loop, it works for nobody's call
    await asyncio.sleep(delay)
    while True:
        try:
            result = work()
            if inspect.isawaitable(result):
                await result
            limit.reset()
        except SidecarError:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, the next run may succeed
            if limit.should_log():
                _log_defect(work, error)
        await asyncio.sleep(every() if callable(every) else every)


def log_failure(task: asyncio.Task[Any]) -> None:
    """Logs what ended a task that nobody awaits, or awaits any more; a done callback.

    A SidecarError was meant for a caller who has left, and was reported where it arose. Anything else is a defect.
    """
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, SidecarError):
        _log_defect(task.get_coro(), error)


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancels a task, and returns when it has ended; repeatedly, as in `BackgroundTasks.stop`."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_EVERY)
    await asyncio.gather(task, return_exceptions=True)


def _log_defect(work: object, error: BaseException) -> None:
    telemetry.log.error("background work failed", task=getattr(work, "__qualname__", repr(work)), exc_info=error)
