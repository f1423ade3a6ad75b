"""Writes events at a rate, kills by turns, and compares what was acknowledged with what is in PostgreSQL."""

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.support.databases import run
from tests.support.free_ports import later_ports
from tests.support.launch import Process, process, serving, settings_for, without_retries
from tests.support.recorder import BUY, VIEW, Recorder, event, new_event_id, open_streams, product
from tests.support.shop import refusal
from tests.support.until import until

# Seconds that a call may take, between two attempts of it, and for which what was killed stays away.
PATIENCE, AGAIN, AWAY = 10.0, 0.05, 1.0
# Batches on their way at once.
OUTSTANDING = 50
# Seconds for the relay to move what is left, and for a replica to take over.
MOVED_WITHIN = 120.0


@dataclass
class Result:
    """What a run found."""

    written: int = 0
    "Events that were acknowledged."
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    kills: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    "Seconds from when a batch was due to its acknowledgement, retries included."
    failures: Counter[str] = field(default_factory=Counter)
    "Attempts that failed and were repeated, by the reason."

    def lines(self) -> Iterator[str]:
        """Yields the figures."""
        percentiles = statistics.quantiles(self.latencies, n=1000, method="inclusive")
        yield f"{self.written:,} events acknowledged in {self.seconds:.1f} s: {self.written / self.seconds:,.0f} a second"
        yield f"a batch took {percentiles[499] * 1000:.1f} ms (p50), {percentiles[989] * 1000:.0f} ms (p99), {max(self.latencies):.2f} s at most"
        yield f"killed: {', '.join(self.kills) or 'nothing'}"
        yield f"attempts that failed and were repeated: {dict(self.failures) or 'none'}"
        yield f"lost: {self.lost}, doubled: {self.doubled}"


class Victim:
    """A process of the program that is killed and started again."""

    def __init__(self, command: str, folder: Path, config: dict[str, Any]) -> None:
        self._command, self._folder, self._config = command, folder, config
        self._stack = contextlib.AsyncExitStack()
        self._running: Process

    async def start(self) -> None:
        """Starts it."""
        self._running = await self._stack.enter_async_context(process(self._command, self._folder, self._config))

    async def kill(self) -> None:
        """Kills it, and starts another one."""
        self._running.process.kill()
        await self._running.process.wait()
        await asyncio.sleep(AWAY)
        await self.start()

    async def stop(self) -> None:
        """Ends it."""
        await self._stack.aclose()


async def measure(
    cluster: ValkeyCluster,
    postgres: Postgres,
    folder: Path,
    *,
    seconds: float,
    rate: float,
    batch: int,
    kill_every: float,
    kills: int = 0,
    engine: str = "auto",
) -> Result:
    """Writes for so many seconds while a sidecar, the relay and a primary are killed by turns.

    The next one is killed so many seconds after the last one is back. With `kills`, events are written until there were that
    many, and not more.
    """
    (port,) = later_ports(1)
    address, namespace = f"127.0.0.1:{port}", f"load{uuid4().hex[:8]}"
    common = {"redis_nodes": ",".join(cluster.addresses), "postgres_catalog": postgres.dsn(), "namespace": namespace}
    sidecar = Victim("serve", folder, common | {"listen_address": address, "engine": engine})
    relay = Victim("relay", folder, common)
    result, tasks = Result(), BackgroundTasks()
    try:
        await asyncio.gather(sidecar.start(), relay.start())
        await serving(address)
        async with without_retries(address) as channel:
            stop = asyncio.Event()
            victims: list[tuple[str, Callable[[], Awaitable[None]]]] = [
                ("sidecar", lambda: _kill_and_wait(sidecar, address)),
                ("relay", relay.kill),
                ("primary", lambda: _fail_over(cluster)),
            ]
            killing = tasks.spawn(_kill(victims, stop, kill_every, result, limit=kills))
            written = await _write(Recorder(channel), result, seconds=seconds, rate=rate, batch=batch, kills=kills)
            stop.set()
            await killing
        await _compare(settings_for(",".join(cluster.addresses), postgres.dsn(), namespace), written, result)
        return result
    finally:
        await tasks.stop()
        await asyncio.gather(sidecar.stop(), relay.stop())


async def _write(recorder: Recorder, result: Result, *, seconds: float, rate: float, batch: int, kills: int) -> set[UUID]:
    """Writes batches when they are due, each until it is acknowledged; returns the ids."""
    loop, acknowledged, writers = asyncio.get_running_loop(), set[UUID](), set[asyncio.Task[None]]()
    room = asyncio.Semaphore(OUTSTANDING)

    async def write(number: int, due: float) -> None:
        events = _events(number, batch)
        while True:
            try:
                reply = await recorder.write(*events, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                found = refusal(error)
                result.failures[found.reason or found.code.name] += 1
                await asyncio.sleep(found.retry_after or AGAIN)
            else:
                break
        result.latencies.append(loop.time() - due)
        acknowledged.update(map(UUID, reply.event_ids))
        room.release()

    began = loop.time()
    for number in count():
        if number >= seconds * rate / batch and len(result.kills) >= kills:
            break
        due = began + number * batch / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        await room.acquire()
        task = asyncio.create_task(write(number, due))
        writers.add(task)
        task.add_done_callback(writers.discard)
    await asyncio.gather(*writers)
    result.seconds, result.written = loop.time() - began, len(acknowledged)
    return acknowledged


def _events(number: int, batch: int) -> list[Any]:
    now = time.time()
    found = []
    for place in range(batch):
        kind, lines = (BUY, [product(f"SKU-{place}", 2, "9.99 EUR")]) if place % 10 == 0 else (VIEW, [product(f"SKU-{number}")])
        found.append(event(f"user-{number * batch + place:x}", kind, *lines, event_id=new_event_id(now)))
    return found


async def _kill(
    victims: list[tuple[str, Callable[[], Awaitable[None]]]],
    stop: asyncio.Event,
    every: float,
    result: Result,
    *,
    limit: int,
) -> None:
    for name, kill in islice(cycle(victims), limit or None):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every)
            return
        await kill()
        result.kills.append(name)


async def _kill_and_wait(sidecar: Victim, address: str) -> None:
    await sidecar.kill()
    await serving(address)


async def _fail_over(cluster: ValkeyCluster) -> None:
    """Kills a primary, and starts it again once a replica has taken over."""
    random.choice(await cluster.primaries()).kill()  # whichever
    await cluster.wait_ok()
    await cluster.heal()


async def _compare(settings: Settings, written: set[UUID], result: Result) -> None:
    async with open_streams(settings) as streams:

        async def is_empty() -> bool:
            return not (await streams.inspect()).waiting

        await until(is_empty, seconds=MOVED_WITHIN)
    rows = await run(settings.database("analytics"), "SELECT event_id FROM cache_sidecar.user_events")
    result.lost = len(written - {id for (id,) in rows})
    result.doubled = len(rows) - len(set(rows))
