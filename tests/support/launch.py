"""Sidecars for tests: in this process, with a clock that the test moves, or as processes."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
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
from cache_sidecar.tiers.ports import RelayWatermarks, Watermark
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from tests.support import inside
from tests.support.until import DEADLINE, until

# Timeouts so long that only a server that hangs meets them; what a timeout does has tests of its own.
PATIENT = {"redis_timeout": 5.0, "postgres_timeout": 20.0}


def settings_for(redis: str, database: str, namespace: str, **more: Any) -> Settings:
    """Returns settings of a sidecar on any free port, for the Redis node(s) `host:port,...` and the DSN."""
    return Settings(
        redis_nodes=redis,
        postgres_catalog=database,
        namespace=namespace,
        **{
            "listen_address": "127.0.0.1:0",
            "log_level": "error",
            "drain_seconds": 2.0,
            "redis_timeout": 2.0,
            "local_admin": True,
        }
        | more,
    )


def publishes(log: Path) -> bool:
    """Returns whether a relay has led the publishing of changes, from its log: each of its jobs has a leader of its own."""
    return any('"leading"' in line and '"job"' not in line for line in log.read_text().splitlines())


class Sidecar:
    """A running sidecar and a channel to it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, app: App | None = None) -> None:
        self.address = address
        self.channel = channel
        self.app = app

    def stub(self, stub: Any) -> Any:
        """Returns a stub of a generated class."""
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

    With `relay`, Redis has the watermarks of a relay that never lags, wherever the test moves the clock, and the sidecar has
    seen them advance, so that it reads from Redis. Without, there are none, or those of the relay that the test runs.
    """
    app = App(settings, clock=clock, **more)
    if relay:
        inside.set_watermarks(region := inside.region_of(app), NeverBehind(inside.watermarks_of(region), inside.clock_of(app)))
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


class NeverBehind:
    """Reads the watermarks as those of a relay that has just checked, by the clock that the test moves; see `RelayWatermarks`.

    A real one writes them four times a second: after a test has moved the clock by an hour, everything would be stale until then.
    Those that a test removes, with all of Redis, count as they were last seen.
    """

    def __init__(self, watermarks: RelayWatermarks, clock: Clock) -> None:
        self._watermarks = watermarks
        self._clock = clock
        self._seen: dict[str, dict[int, Watermark]] = {}
        self.primaries = watermarks.primaries
        self.write_watermarks = watermarks.write_watermarks

    async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> Mapping[str, Mapping[int, Watermark]]:
        with contextlib.suppress(TierFailed):
            for role, marks in (await self._watermarks.read_watermarks(roles)).items():
                self._seen.setdefault(role, {}).update(marks)
        now = self._clock.now()
        return {role: {p: mark._replace(moment=now) for p, mark in marks.items()} for role, marks in self._seen.items()}


async def _relayed(settings: Settings, app: App | None) -> None:
    """Writes the watermarks of a relay that never lags until the app has no quarantine left; without Redis, does nothing."""
    connection = RedisClient(settings)
    watermarks = RedisWatermarks(connection, KeyNames(settings.namespace), macs=Macs.of(settings))

    async def is_known() -> bool:
        await _mark(watermarks)
        if app is None:
            return True
        await inside.region_of(app).step()  # now, not at its next interval
        return rests_on_redis(app)

    await until(is_known)
    await connection.close()


def rests_on_redis(app: App) -> bool:
    """Returns whether an app has no quarantine that is about to end."""
    return not any(quarantine.is_ending for quarantine in inside.quarantines_of(app).values())


@contextlib.asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """Writes watermarks as often as a relay does that never lags: for sidecars that outlive a test, or are processes.

    On a busy machine their heartbeats may be late; after that they wait for watermarks that advance.
    """
    connection = RedisClient(settings)
    watermarks = RedisWatermarks(connection, KeyNames(settings.namespace), macs=Macs.of(settings))
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
        await watermarks.write_watermarks(ROLES, time.time(), await watermarks.primaries())


def channel_to(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """Returns a channel, with TLS if credentials are given."""
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)


class Process:
    """A sidecar or relay process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log


@contextlib.asynccontextmanager
async def process(
    command: str, folder: Path, config: dict[str, Any], *, code: Path | None = None, files: int = 0
) -> AsyncIterator[Process]:
    """Runs `cache-sidecar COMMAND` with a settings file, and terminates it at the end.

    `code` is a folder with another version, `files` the limit on open files if not this process's.
    """
    name = f"{command}-{uuid4().hex[:8]}"
    file, log = folder / f"{name}.toml", folder / f"{name}.log"
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in config.items()))
    # No coverage of another version.
    env = {name: value for name, value in os.environ.items() if code is None or not name.startswith("COVERAGE_")}
    with log.open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *(("sh", "-c", f'ulimit -n {files} && exec "$@"', "sh") if files else ()),
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
    """Connects to a sidecar that the test may kill: calls fail at once, and a restarted sidecar is found soon.

    The channel has a connection of its own. gRPC shares connections, and their reconnect backoff, between the channels of a
    process: after an outage in one test the backoff is up to two minutes, and calls of the next test would fail.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    return grpc.aio.insecure_channel(address, options=options)


async def serving(address: str, *, seconds: float = DEADLINE) -> None:
    """Waits until a sidecar's health is SERVING; fails after that many seconds."""
    async with without_retries(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=seconds
        )
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'
