"""The relay's composition root."""

import asyncio

from cache_sidecar import policy, telemetry
from cache_sidecar.clock import SystemClock
from cache_sidecar.errors import Tier
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.settings import Settings
from cache_sidecar.store.listener import Listener
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.store.pool import Database
from cache_sidecar.tiers.guard import Guard
from cache_sidecar.tiers.l2 import Connection, Names, RedisL2


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Relays until `stop` is set."""
    clock = SystemClock()
    database = Database(
        settings.database("catalog"),
        size=2,
        timeout=settings.postgres_timeout,
        prepare=settings.postgres_prepare,
        guard=Guard(Tier.STORE, timeout=settings.postgres_timeout, max_running=2, max_waiting=8, clock=clock),
    )
    connection = Connection(settings)
    listener = Listener(settings.database("catalog"))
    relay = Relay(
        RelayStore(database),
        RedisL2(connection, Names(settings.namespace)),
        policy.load(settings.policy_file),
        region=settings.region,
        retention=settings.change_retention,
    )
    await database.open()
    telemetry.log.info("relaying", region=settings.region)
    work = asyncio.get_running_loop().create_task(relay.run(woken=listener.wait))
    stopped = asyncio.get_running_loop().create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()  # it never returns: this raises what ended it
    finally:
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
        await listener.close()
        await connection.close()
        await database.close()
    telemetry.log.info("stopped")
