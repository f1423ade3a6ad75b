"""What may break while shoppers are there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.devstack.waiting import together
from cache_sidecar.replay.servers import Servers

Change = Callable[[Servers], Awaitable[None]]


class Fault(NamedTuple):
    """Something that breaks, and how it is mended."""

    begin: Change
    end: Change
    needs_cluster: bool = False


async def _kill_primary(servers: Servers) -> None:
    if isinstance(servers.redis, ValkeyCluster):
        (victim, *_) = await servers.redis.primaries()
        await asyncio.to_thread(victim.kill)


async def _heal(servers: Servers) -> None:
    if isinstance(servers.redis, ValkeyCluster):
        await servers.redis.heal()


async def _kill_redis(servers: Servers) -> None:
    redis = servers.redis
    if redis is not None:
        for node in redis.nodes if isinstance(redis, ValkeyCluster) else [redis]:
            await asyncio.to_thread(node.kill)


async def _start_redis(servers: Servers) -> None:
    redis = servers.redis
    if redis is not None:
        await together(redis.heal() if isinstance(redis, ValkeyCluster) else redis.start())


async def _stop_postgres(servers: Servers) -> None:
    await servers.postgres.stop()


async def _start_postgres(servers: Servers) -> None:
    await servers.postgres.start()


async def _pause_postgres(servers: Servers) -> None:
    servers.postgres.pause()


async def _resume_postgres(servers: Servers) -> None:
    servers.postgres.resume()


async def _kill_sidecar(servers: Servers) -> None:
    if servers.sidecars:
        await asyncio.to_thread(servers.sidecars[0].child.kill)
        # As a kubelet does, at once.
        await servers.restart_sidecar()


async def _nothing(servers: Servers) -> None:
    """It is mended already."""


FAULTS: dict[str, Fault] = {
    "primary killed": Fault(_kill_primary, _heal, needs_cluster=True),
    "redis killed": Fault(_kill_redis, _start_redis),
    "postgresql stopped": Fault(_stop_postgres, _start_postgres),
    "postgresql paused": Fault(_pause_postgres, _resume_postgres),
    "sidecar killed": Fault(_kill_sidecar, _nothing),
}
"By the name of the option."
