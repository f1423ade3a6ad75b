"""The relay's composition root."""

import asyncio
from datetime import timedelta
from importlib import import_module

from cache_sidecar import datasets
from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.config.policy import Policy
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies, Dependency
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Tier
from cache_sidecar.core.garbage_collection import Collections, short_pauses
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.watched_files import LOOK_EVERY
from cache_sidecar.metrics import certificates, web
from cache_sidecar.metrics.certificates import Certificates
from cache_sidecar.relay import holds, metrics, product_search, redis_memory, sessions, user_events
from cache_sidecar.relay.metrics import OutboxBacklog, Publishing, RelayMetrics
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.relay.recommendations import RecommendationRelay
from cache_sidecar.relay.redis_memory import RedisMemory
from cache_sidecar.relay.user_events import UserEventRelay
from cache_sidecar.store.check import DatabaseCheck
from cache_sidecar.store.database import Database
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.store.product_search import ProductSearchStore
from cache_sidecar.store.recommendation import CHANNEL, JOB
from cache_sidecar.store.reservation import HoldStore
from cache_sidecar.store.rights import RELAY
from cache_sidecar.store.session import SessionStore
from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.event_streams import EventStreams
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard

# The effect of an unreachable PostgreSQL, as logged.
STORE_AWAY = "no changes are published, no holds expire, no events are moved"

# Seconds that MongoDB may take for one operation, such as writing a page of events.
MONGODB_TIMEOUT = 10.0


async def run(settings: Settings, stop: asyncio.Event, *, default_policy: Policy | None = None) -> None:
    """Relays the datasets of the policy until `stop` is set; `default_policy` replaces the built-in policy."""
    if is_copying := bool(settings.mongodb_uri.get_secret_value()):
        import_module("cache_sidecar.mongodb.database")  # says that its client is missing, before anything is opened
    clock = SystemClock()
    policy = LivePolicy(settings.policy_file, clock=clock, default=default_policy)
    dependencies = Dependencies(clock=clock)
    opened = {
        dsn: _database(settings, dsn, roles, dependencies.of("postgresql", ", ".join(roles)), clock)
        for dsn, roles in settings.databases().items()
    }
    databases = {dsn: database for dsn, (database, _, _) in opened.items()}
    connection = RedisClient(settings, dependencies=dependencies)
    names = KeyNames(settings.namespace)
    macs = Macs.of(settings)
    l2, watermarks = RedisL2(connection, names, macs=macs), RedisWatermarks(connection, names, macs=macs)
    for database in databases.values():
        await database.open()
    policy.start()
    telemetry.log.info("relaying", region=settings.region)
    publishing = [
        Publishing(
            roles=roles,
            relay=Relay(
                (store := RelayStore(databases[dsn])),
                l2,
                watermarks,
                policy,
                region=settings.region,
                roles=roles,
                retention=settings.change_retention,
                clock=clock,
                dependency=dependencies.of("relay", ", ".join(roles)),
                tables=datasets.TABLES,
            ),
            leadership=Leadership(dsn, region=settings.region),
            backlog=OutboxBacklog(store, region=settings.region),
        )
        for dsn, roles in settings.databases().items()
    ]
    moving = UserEventRelay(
        EventStreams(connection, names, timeout=settings.redis_timeout, load_scripts=l2.load_scripts),
        region=settings.region,
        retention=timedelta(days=settings.event_retention),
        clock=clock,
        dependency=dependencies.of("user events"),
    )
    analytics = settings.database("analytics")
    moving_leadership = Leadership(analytics, region=settings.region, job=user_events.JOB, channel="")
    # One for all regions: they share the events.
    folding = RecommendationRelay(dependency=dependencies.of("recommendations"), policy=policy.reader("recommendation")).run(
        Leadership(analytics, region="", job=JOB, channel=CHANNEL)
    )
    expired_holds = holds.ExpiredHolds(HoldStore(databases[settings.database("catalog")]), clock=clock)
    expired_sessions = sessions.ExpiredSessions(
        SessionStore(databases[settings.database("user")]), policy=policy.reader("session"), clock=clock
    )
    product_index = product_search.ProductIndex(ProductSearchStore(databases[settings.database("catalog")]))
    checks = Checks(dependencies, [l2.check, *(check.run for _, check, _ in opened.values())])
    collections = Collections()
    certificate_files = Certificates(settings, certificates.RELAY)
    measured = RelayMetrics(
        publishing=publishing,
        moving=moving,
        moving_leadership=moving_leadership,
        moving_roles=settings.databases()[analytics],
        holds=expired_holds,
        sessions=expired_sessions,
        redis=connection.cluster,
        memory=(memory := RedisMemory(connection.cluster)),
        databases={role: (database.pool, guard) for role in ROLES for database, _, guard in [opened[settings.database(role)]]},
        dependencies=dependencies,
        policy=policy,
        collections=collections,
        certificates=certificate_files,
    )
    background = BackgroundTasks()
    if macs is not None:
        background.poll(LOOK_EVERY, macs.look, delay=LOOK_EVERY)
    for every, work in (
        (holds.EVERY, expired_holds.step),
        (sessions.EVERY, expired_sessions.step),
        (product_search.EVERY, product_index.step),
        (redis_memory.EVERY, memory.look),
        (certificates.EVERY, certificate_files.look),
    ):
        background.poll(every, work)
    for each in publishing:
        background.poll(metrics.COUNT_EVERY, each.backlog.count)
    # Of these only `stop.wait()` ever returns. A defect in another one ends the process, to be restarted by whoever runs it.
    relays = [each.relay.run(each.leadership) for each in publishing]
    copying = [_copy_events(settings, databases[analytics], dependencies)] if is_copying else []
    works = (stop.wait(), *relays, moving.run(moving_leadership), folding, *copying, checks.run())
    lasting = [background.spawn(work, log_failures=False) for work in works]
    collections.start()
    try:
        async with web.serving(settings.web_address, measured.collect), short_pauses():
            done, _ = await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        collections.stop()
        await background.stop()
        await policy.stop()
        await connection.close()
        for database in databases.values():
            await database.close()
    telemetry.log.info("stopped")


async def _copy_events(settings: Settings, database: Database, dependencies: Dependencies) -> None:
    """Copies events to MongoDB until it is cancelled. Raises SettingsError."""
    # What is optional is loaded where it is needed.
    from cache_sidecar.mongodb.database import open_database  # noqa: PLC0415
    from cache_sidecar.mongodb.events import EventCopy  # noqa: PLC0415
    from cache_sidecar.relay import event_copy  # noqa: PLC0415

    leadership = Leadership(settings.database("analytics"), region=event_copy.EVERYWHERE, job=event_copy.JOB, channel="")
    async with open_database(settings, patience=MONGODB_TIMEOUT) as opened:
        copier = event_copy.EventCopier(
            EventCopy(opened),
            UserEventStore(database),
            retention=timedelta(days=settings.event_retention),
            dependency=dependencies.of("mongodb"),
        )
        await copier.run(leadership)


def _database(
    settings: Settings, dsn: str, roles: list[str], dependency: Dependency, clock: Clock
) -> tuple[Database, DatabaseCheck, Guard]:
    size, timeout = 2, settings.postgres_timeout
    breaker = Breaker(Tier.STORE, clock=clock, dependency=dependency, effect=STORE_AWAY)
    guard = Guard(Tier.STORE, timeout=timeout, max_running=size, max_waiting=8, breaker=breaker)
    database = Database(dsn, size=size, timeout=timeout, prepare=settings.postgres_prepare, guard=guard, dependency=dependency)
    return database, DatabaseCheck(database, roles, dependency, rights=RELAY, unreachable=breaker.report), guard
