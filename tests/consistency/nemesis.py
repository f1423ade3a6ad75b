"""What breaks while the clients call. Every fault is over, and what it broke works again, when its function returns."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.consistency.stack import Stack
from tests.sidecars import until

# Seconds that a hung primary hangs: so short that it keeps its slots, and so long that its replica takes them.
SHORT, LONG = 0.7, 3.0
# Seconds that a sidecar is cut off or away, and that a relay is away.
CUT, AWAY = 3.0, 6.0
# The slots that move to another primary and back.
MOVED = 2000


async def primary_killed(stack: Stack) -> None:
    """kill -9 of a primary; its replica takes over, and it comes back as a replica with nothing."""
    node = (await stack.cluster.primaries())[0]
    node.kill()
    await stack.cluster.wait_ok()
    await node.start()
    await stack.cluster.wait_ok()


async def primary_hung(stack: Stack) -> None:
    """SIGSTOP of a primary, so long that its replica takes over."""
    await _hung(stack, LONG)


async def primary_hung_shortly(stack: Stack) -> None:
    """SIGSTOP of a primary, which goes on as if nothing had happened."""
    await _hung(stack, SHORT)


async def _hung(stack: Stack, seconds: float) -> None:
    node = (await stack.cluster.primaries())[-1]
    node.pause()
    await asyncio.sleep(seconds)
    node.resume()
    await stack.cluster.wait_ok()


async def failed_over(stack: Stack) -> None:
    """CLUSTER FAILOVER: a replica takes over from a primary that is well."""
    node = (await stack.cluster.primaries())[1]
    async with node.client() as client:
        port = int((await client.info("replication"))["slave0"]["port"])
    replica = next(one for one in stack.cluster.nodes if one.port == port)
    async with replica.client() as client:
        await client.cluster("FAILOVER")

    async def is_primary() -> bool:
        return replica in await stack.cluster.primaries()

    await until(is_primary)
    await stack.cluster.wait_ok()


async def slots_moved(stack: Stack) -> None:
    """Some slots migrate to another primary, and back."""
    source, target = (await stack.cluster.primaries())[:2]
    first = min([first for first, _, port in await _ranges(source) if port == source.port])
    for giver, taker in ((source, target), (target, source)):
        await _move(giver, taker, first)
        await asyncio.sleep(CUT)
    await stack.cluster.wait_ok()


async def move_slots(giver: ValkeyServer, taker: ValkeyServer) -> None:
    """Migrates the first slots of one primary to another one, and returns when both say so."""
    await _move(giver, taker, min([first for first, _, port in await _ranges(giver) if port == giver.port]))


async def _move(giver: ValkeyServer, taker: ValkeyServer, first: int) -> None:
    async with taker.client() as client:
        id = await client.cluster("MYID")
    last = first + MOVED - 1

    async def moved() -> bool:
        return any(start <= first <= end and port == taker.port for start, end, port in await _ranges(giver))

    async with giver.client() as client:
        await client.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", str(first), str(last), "NODE", id)
    await until(moved)


async def _ranges(node: ValkeyServer) -> list[tuple[int, int, int]]:
    async with node.client() as client:
        shards: Any = await client.execute_command("CLUSTER SLOTS")
    return [(first, last, primary[1]) for first, last, primary, *_ in shards]


async def sidecar_killed(stack: Stack) -> None:
    """kill -9 of a sidecar, which is started again."""
    number = len(stack.sidecars) - 1
    stack.kill_sidecar(number)
    await asyncio.sleep(1)
    await stack.restart_sidecar(number)


async def sidecar_stopped(stack: Stack) -> None:
    """SIGSTOP of a sidecar: what changes meanwhile, it has not heard of when it goes on and finds calls waiting."""
    sidecar = stack.sidecars[1].child
    sidecar.pause()
    await asyncio.sleep(CUT)
    sidecar.resume()


async def relays_killed(stack: Stack) -> None:
    """kill -9 of one relay after the other, so that one of them was the one that led."""
    for number, relay in enumerate(stack.relays):
        relay.kill()
        await asyncio.sleep(AWAY)
        stack.restart_relay(number)


async def postgres_restarted(stack: Stack) -> None:
    """kill -9 of PostgreSQL in the middle of transactions, and its recovery."""
    await asyncio.to_thread(stack.postgres.kill)
    await stack.postgres.start()


async def sidecar_cut_off(stack: Stack) -> None:
    """A sidecar's connections to Redis are dropped, and new ones refused."""
    stack.line.cut()
    await asyncio.sleep(CUT)
    await stack.line.heal()


async def sidecar_not_heard(stack: Stack) -> None:
    """A sidecar's connections to Redis stay open, and nothing goes through."""
    stack.line.stall()
    await asyncio.sleep(CUT)
    await stack.line.heal()


FAULTS: Mapping[str, Callable[[Stack], Awaitable[None]]] = {
    "primary killed": primary_killed,
    "primary hung": primary_hung,
    "primary hung shortly": primary_hung_shortly,
    "primary failed over": failed_over,
    "slots moved": slots_moved,
    "sidecar killed": sidecar_killed,
    "sidecar stopped": sidecar_stopped,
    "relays killed": relays_killed,
    "PostgreSQL restarted": postgres_restarted,
    "sidecar cut off": sidecar_cut_off,
    "sidecar not heard": sidecar_not_heard,
}
