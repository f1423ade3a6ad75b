"""Sidecars for tests: in this process, with a clock that tests move, or as processes of their own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.app import App
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.relay.outbox import LOOK_EVERY
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks

# Seconds after which something hangs: several sidecars that start at once on a busy machine take half of it.
DEADLINE = 60.0
# A moment that no clock of a test comes to.
NEVER_BEHIND = 1e12


def settings_for(redis: str, database: str, namespace: str, **more: Any) -> Settings:
    """Returns settings of a sidecar on any free port, for the Redis node(s) `host:port,...` and the DSN."""
    return Settings(
        redis_nodes=redis,
        postgres_catalog=database,
        namespace=namespace,
        **{"listen_address": "127.0.0.1:0", "log_level": "error", "drain_seconds": 2.0, "redis_timeout": 2.0} | more,
    )


class Sidecar:
    """A running sidecar and a channel to it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, app: App | None = None) -> None:
        self.address = address
        self.channel = channel
        self.app = app

    def stub(self, stub: Any) -> Any:
        """Returns a stub, given its generated class."""
        return stub(self.channel)


@contextlib.asynccontextmanager
async def in_process(
    settings: Settings,
    *,
    clock: Clock | None = None,
    trusted: bool = True,
    relay: bool = True,
    credentials: grpc.ChannelCredentials | None = None,
    **more: Any,
) -> AsyncIterator[Sidecar]:
    """Runs a sidecar in this process; with `trusted`, waits until its memory may be used. `credentials` are for TLS.

    `more` is for `App`.

    With `relay`, Redis has the sign of a relay that is never behind, wherever the test moves the clock, and the sidecar has seen
    it move on, so that what it reads rests on Redis. Without it there is none, or the one that the test runs.
    """
    app = App(settings, clock=clock, **more)
    await app.start()
    try:
        async with channel_to(app.server.address, credentials) as channel:
            if trusted:
                await until(app.coherence.is_trusted)
            if relay:
                await _relayed(settings, app if trusted else None)
            yield Sidecar(app.server.address, channel, app)
    finally:
        await app.stop()


async def _relayed(settings: Settings, app: App | None) -> None:
    """Writes the sign of a relay that has told everything, for ever, until an app has no doubt; where there is no Redis, nothing."""
    connection = RedisClient(settings)
    watermarks = RedisWatermarks(connection, KeyNames(settings.namespace))

    async def is_known() -> bool:
        await _mark(watermarks)
        if app is None:
            return True
        await app._region.step()  # at once, not when it is due
        return rests_on_redis(app)

    await until(is_known)
    await connection.close()


def rests_on_redis(app: App) -> bool:
    """Whether an app, of what it hears, doubts nothing that Redis says."""
    return not any(quarantine.is_ending for quarantine in app._quarantines.values())


@contextlib.asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """Writes that sign, and anew as often as a relay does: for sidecars that outlive a test, or are processes.

    When no heartbeat of theirs was good in time, be it that the machine is busy, they wait for marks that move on.
    """
    connection = RedisClient(settings)
    watermarks = RedisWatermarks(connection, KeyNames(settings.namespace))
    await _mark(watermarks)
    task = asyncio.create_task(_mark_on(watermarks))
    try:
        yield
    finally:
        await cancel_and_wait(task)
        await connection.close()


async def _mark_on(watermarks: RedisWatermarks) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        await _mark(watermarks)


async def _mark(watermarks: RedisWatermarks) -> None:
    with contextlib.suppress(TierFailed):
        await watermarks.caught_up(ROLES, NEVER_BEHIND, await watermarks.primaries())


def channel_to(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """Returns a channel, by TLS where there are credentials."""
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)


class Process:
    """A sidecar (or relay) as a process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log


@contextlib.asynccontextmanager
async def process(command: str, folder: Path, config: dict[str, Any], *, code: Path | None = None) -> AsyncIterator[Process]:
    """Runs `cache-sidecar COMMAND` with a settings file, and terminates it at the end; `code` is a folder with another version."""
    name = f"{command}-{uuid4().hex[:8]}"
    file, log = folder / f"{name}.toml", folder / f"{name}.log"
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in config.items()))
    # Another version is nothing of which coverage is wanted.
    env = {name: value for name, value in os.environ.items() if code is None or not name.startswith("COVERAGE_")}
    with log.open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cache_sidecar", command, "--config", str(file)),
            stdout=out,
            stderr=out,
            env=env,
            cwd=code,
        )
    try:
        yield Process(started, log)
    finally:
        if started.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.terminate()
        await asyncio.wait_for(started.wait(), DEADLINE)


def without_retries(address: str) -> grpc.aio.Channel:
    """Connects to a sidecar that the test may kill: calls fail at once, and a sidecar that is back is found soon.

    The connection is this channel's own. gRPC shares connections between the channels of a process, pauses before the next
    attempt included: after an outage in one test those grow, up to two minutes, and the next test's calls fail.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    return grpc.aio.insecure_channel(address, options=options)


async def serving(address: str, *, seconds: float = DEADLINE) -> None:
    """Waits until a sidecar says that it serves; fails after so many seconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=seconds
        )
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def until(condition: Any, *, seconds: float = DEADLINE) -> Any:
    """Polls until `condition()` (plain or awaitable) is true, and returns it; fails after so many seconds."""
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


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'
