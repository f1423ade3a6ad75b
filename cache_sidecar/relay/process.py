"""The relay's composition root."""

import asyncio

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.config.policy import Policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies, Dependency
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Tier
from cache_sidecar.core.garbage_collection import short_pauses
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.relay.holds import ExpiredHolds
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.relay.sessions import ExpiredSessions
from cache_sidecar.store.check import DatabaseCheck
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.store.pool import Database
from cache_sidecar.store.reservation import HoldStore
from cache_sidecar.store.session import SessionStore
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard

# What it means that PostgreSQL does not answer.
STORE_AWAY = "no changes are published, no holds expire"


async def run(settings: Settings, stop: asyncio.Event, *, default_policy: Policy | None = None) -> None:
    """Relays until `stop` is set, for the datasets of the policy: `default_policy` is what ships, if none is given."""
    clock = SystemClock()
    policy = LivePolicy(settings.policy_file, clock=clock, default=default_policy)
    dependencies = Dependencies(clock=clock, secrets=settings.secrets())
    opened = {
        dsn: _database(settings, dsn, roles, dependencies.of("postgresql", ", ".join(roles)), clock)
        for dsn, roles in settings.databases().items()
    }
    databases = {dsn: database for dsn, (database, _) in opened.items()}
    connection = RedisClient(settings, dependencies=dependencies)
    names = KeyNames(settings.namespace)
    l2, watermarks = RedisL2(connection, names), RedisWatermarks(connection, names)
    for database in databases.values():
        await database.open()
    policy.start()
    telemetry.log.info("relaying", region=settings.region)
    relays = [
        Relay(
            RelayStore(databases[dsn]),
            l2,
            watermarks,
            policy,
            region=settings.region,
            roles=roles,
            retention=settings.change_retention,
            clock=clock,
            dependency=dependencies.of("relay", ", ".join(roles)),
        ).run(Leadership(dsn, region=settings.region))
        for dsn, roles in settings.databases().items()
    ]
    holds = ExpiredHolds(HoldStore(databases[settings.database("catalog")]), clock=clock)
    sessions = ExpiredSessions(SessionStore(databases[settings.database("user")]), policy=policy.reader("session"), clock=clock)
    loop = asyncio.get_running_loop()
    stopped = loop.create_task(stop.wait())
    checks = Checks(dependencies, [l2.check, *(check.run for _, check in opened.values())])
    tasks = [stopped, *(loop.create_task(work) for work in (*relays, holds.run(), sessions.run(), checks.run()))]
    try:
        async with short_pauses():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # only `stopped` ever returns: of the others, this raises what ended them
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            await cancel_and_wait(task)
        await policy.stop()
        await connection.close()
        for database in databases.values():
            await database.close()
    telemetry.log.info("stopped")


def _database(
    settings: Settings, dsn: str, roles: list[str], dependency: Dependency, clock: Clock
) -> tuple[Database, DatabaseCheck]:
    size, timeout = 2, settings.postgres_timeout
    breaker = Breaker(Tier.STORE, clock=clock, dependency=dependency, effect=STORE_AWAY)
    guard = Guard(Tier.STORE, timeout=timeout, max_running=size, max_waiting=8, breaker=breaker)
    database = Database(dsn, size=size, timeout=timeout, prepare=settings.postgres_prepare, guard=guard, dependency=dependency)
    return database, DatabaseCheck(database, roles, dependency, unreachable=breaker.tell)
