"""Two sidecars over one Redis and one PostgreSQL, for state machines, whose steps are plain functions in a thread."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from redis.asyncio import Redis

from tests.support.clocks import ManualClock
from tests.support.customers import Customer
from tests.support.launch import in_process, settings_for

T = TypeVar("T")


class World:
    """The system under test of a state machine."""

    def __init__(self, redis: str, database: str, namespace: str) -> None:
        self.clock = ManualClock()
        self._redis = redis
        self._settings = settings_for(redis, database, namespace, redis_mode="single", redis_timeout=2.0)
        self._sidecars: list[contextlib.AsyncExitStack] = []
        self.customers: list[Customer] = []
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Starts both sidecars."""
        for _ in range(2):
            self._sidecars.append(contextlib.AsyncExitStack())
            self.customers.append(await self._opened(self._sidecars[-1]))

    async def stop(self) -> None:
        """Stops them."""
        for stack in self._sidecars:
            await stack.aclose()

    async def _opened(self, stack: contextlib.AsyncExitStack) -> Customer:
        return Customer(await stack.enter_async_context(in_process(self._settings, clock=self.clock)))

    # What the steps call, in their thread

    def do(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Runs a coroutine in the sidecars' event loop and returns its result."""

        async def awaited() -> T:
            return await begin()

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(30)

    def restart(self, which: int) -> None:
        """Stops a sidecar and starts another one in its place."""
        self.do(lambda: self._restarted(which))

    async def _restarted(self, which: int) -> None:
        await self._sidecars[which].aclose()
        self._sidecars[which] = contextlib.AsyncExitStack()
        self.customers[which] = await self._opened(self._sidecars[which])

    def flush_redis(self) -> None:
        """Deletes everything in Redis."""
        self.do(self._flushed)

    async def _flushed(self) -> None:
        async with Redis.from_url(f"redis://{self._redis}") as redis:
            await redis.flushall()


async def explore(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """Runs a state machine in a thread."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)
