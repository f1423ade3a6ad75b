"""Faults that are injected while the clients call. When a fault's function returns, everything works again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.consistency.rulebook import Rulebook
from tests.consistency.stack import Stack
from tests.support.until import until

# Seconds that something is paused, from and to: a primary that is paused shortly keeps its slots, one that is paused for long
# does not.
PAUSED, SHORTLY, LONG = (0.5, 8.0), (0.5, 0.9), (2.5, 8.0)
# Seconds that a sidecar is cut off or away, and that a relay is away.
CUT, AWAY = 3.0, 6.0
# Seconds that writes are acknowledged which a failover then loses, and that an old primary sleeps on when its replica took over.
TAIL, SLEEPS_ON = 1.5, (0.05, 1.5)
# Seconds that a clock is off, how long it is so, and what two clocks that are right may differ by.
OFF, OFF_FOR = 5.0, 6.0
# The slots that move to another primary and back.
MOVED = 2000


class Nemesis:
    """What faults need: the servers they break, the rules, and a random generator."""

    def __init__(self, stack: Stack, rules: Rulebook, chance: random.Random, visits: asyncio.Event) -> None:
        """`visits` has the idle sidecars called while it is set."""
        self.stack = stack
        self.cluster = stack.cluster
        self.rules = rules
        self.chance = chance
        self.visits = visits

    async def pause(self, seconds: tuple[float, float]) -> None:
        """Waits for a random time."""
        await asyncio.sleep(self.chance.uniform(*seconds))


# Primaries


async def primary_killed(nemesis: Nemesis) -> None:
    """kill -9 of a primary; its replica takes over, and it comes back as a replica with nothing."""
    node = (await nemesis.cluster.primaries())[0]
    node.kill()
    await nemesis.cluster.wait_ok()
    await node.start()
    await nemesis.cluster.wait_ok()


async def primary_paused(nemesis: Nemesis) -> None:
    """SIGSTOP of a primary, so long that its replica takes over."""
    await _paused(nemesis, LONG)


async def primary_paused_shortly(nemesis: Nemesis) -> None:
    """SIGSTOP of a primary, which resumes before a failover."""
    await _paused(nemesis, SHORTLY)


async def _paused(nemesis: Nemesis, seconds: tuple[float, float]) -> None:
    node = (await nemesis.cluster.primaries())[-1]
    node.pause()
    await nemesis.pause(seconds)
    node.resume()
    await nemesis.cluster.wait_ok()


async def old_primary_wakes(nemesis: Nemesis) -> None:
    """SIGSTOP of a primary, which resumes after its replica accepted writes: it answers clients that still call it."""
    node = nemesis.chance.choice(await nemesis.cluster.primaries())
    node.pause()
    await until(lambda: _has_lost_its_slots(nemesis, node))
    await nemesis.pause(SLEEPS_ON)
    node.resume()
    await nemesis.cluster.wait_ok()


async def _has_lost_its_slots(nemesis: Nemesis, node: ValkeyServer) -> bool:
    return node not in await nemesis.cluster.primaries()


async def tail_lost(nemesis: Nemesis) -> None:
    """A replica receives nothing of what its primary acknowledges for a while, and takes over when that is killed."""
    node = nemesis.chance.choice(await nemesis.cluster.primaries())
    replica = await _replica_of(nemesis, node)
    replica.pause()
    async with node.client() as client:
        # What it was sent would wait for it; it cannot ask for the rest while it is stopped.
        await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    await asyncio.sleep(TAIL)
    node.kill()
    replica.resume()
    await nemesis.cluster.wait_ok()
    await node.start()
    await nemesis.cluster.wait_ok()


async def _replica_of(nemesis: Nemesis, node: ValkeyServer) -> ValkeyServer:
    async def port() -> int:
        async with node.client() as client:
            replication: Any = await client.info("replication")
        return int(replication["slave0"]["port"]) if "slave0" in replication else 0

    found = await until(port)
    return next(one for one in nemesis.cluster.nodes if one.port == found)


async def failed_over(nemesis: Nemesis) -> None:
    """CLUSTER FAILOVER: a replica takes over from a healthy primary."""
    await _fail_over(nemesis, (await nemesis.cluster.primaries())[1])


async def _fail_over(nemesis: Nemesis, node: ValkeyServer) -> None:
    replica = await _replica_of(nemesis, node)
    async with replica.client() as client:
        await client.cluster("FAILOVER")

    async def is_primary() -> bool:
        return replica in await nemesis.cluster.primaries()

    await until(is_primary)
    await nemesis.cluster.wait_ok()


async def slots_moved(nemesis: Nemesis) -> None:
    """Some slots migrate to another primary, and back."""
    source, target = (await nemesis.cluster.primaries())[:2]
    first = min([first for first, _, port in await _ranges(source) if port == source.port])
    for giver, taker in ((source, target), (target, source)):
        await _move(giver, taker, first)
        await asyncio.sleep(CUT)
    await nemesis.cluster.wait_ok()


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


# Sidecars


async def sidecar_killed(nemesis: Nemesis) -> None:
    """kill -9 of a sidecar, which is started again."""
    stack = nemesis.stack
    number = len(stack.sidecars) - stack.idle - 1
    stack.kill_sidecar(number)
    await asyncio.sleep(1)
    await stack.restart_sidecar(number)


async def sidecar_paused(nemesis: Nemesis) -> None:
    """SIGSTOP of a sidecar: when it resumes, calls are waiting, and it has not received the changes made meanwhile."""
    sidecar = nemesis.stack.sidecars[1].child
    sidecar.pause()
    await nemesis.pause(PAUSED)
    sidecar.resume()


async def idle_sidecar_wakes(nemesis: Nemesis) -> None:
    """An idle sidecar is stopped while slots move and a replica takes over, and is called the moment it resumes."""
    stack = nemesis.stack
    idle = stack.sidecars[-1].child
    source, target, third = await nemesis.cluster.primaries()
    first = min([first for first, _, port in await _ranges(source) if port == source.port])
    idle.pause()
    await _move(source, target, first)
    await _fail_over(nemesis, third)
    nemesis.visits.set()
    await asyncio.sleep(0.5)
    idle.resume()
    await asyncio.sleep(CUT)
    nemesis.visits.clear()
    await _move(target, source, first)
    await nemesis.cluster.wait_ok()


async def sidecar_cut_off(nemesis: Nemesis) -> None:
    """A sidecar's connections to Redis are dropped, and new ones refused."""
    nemesis.stack.line.cut()
    await asyncio.sleep(CUT)
    await nemesis.stack.line.heal()


async def sidecar_not_heard(nemesis: Nemesis) -> None:
    """A sidecar's connections to Redis stay open without passing data."""
    nemesis.stack.line.stall()
    await asyncio.sleep(CUT)
    await nemesis.stack.line.heal()


async def sidecar_clock_off(nemesis: Nemesis) -> None:
    """A sidecar whose clock is ahead or behind."""
    stack, number = nemesis.stack, 0
    nemesis.rules.clocks_differ(OFF)
    for ahead in (nemesis.chance.choice((OFF, -OFF)), 0.0):
        stack.kill_sidecar(number)
        await stack.restart_sidecar(number, ahead=ahead)
        await asyncio.sleep(OFF_FOR if ahead else 0)


# Relays and PostgreSQL


async def relays_killed(nemesis: Nemesis) -> None:
    """kill -9 of one relay after the other, so that one of them was the one that led."""
    for number, relay in enumerate(nemesis.stack.relays):
        relay.kill()
        await asyncio.sleep(AWAY)
        nemesis.stack.restart_relay(number)


async def relays_paused(nemesis: Nemesis) -> None:
    """SIGSTOP of all relays."""
    relays = list(nemesis.stack.relays)
    for relay in relays:
        relay.pause()
    await nemesis.pause(PAUSED)
    for relay in relays:
        relay.resume()


async def relay_clock_off(nemesis: Nemesis) -> None:
    """Relays whose clock is ahead or behind, and a failover, after which sidecars go by what they say."""
    stack = nemesis.stack
    nemesis.rules.clocks_differ(OFF)
    for ahead in (nemesis.chance.choice((OFF, -OFF)), 0.0):
        for number, relay in enumerate(stack.relays):
            relay.kill()
            stack.restart_relay(number, ahead=ahead)
        if ahead:
            await asyncio.sleep(OFF_FOR / 2)
            await old_primary_wakes(nemesis)
            await asyncio.sleep(OFF_FOR / 2)


async def postgres_restarted(nemesis: Nemesis) -> None:
    """kill -9 of PostgreSQL in the middle of transactions, and its recovery."""
    since = time.monotonic()
    await asyncio.to_thread(nemesis.stack.postgres.kill)
    await nemesis.stack.postgres.start()
    nemesis.rules.sessions.store_was_away(since, time.monotonic())


async def postgres_paused(nemesis: Nemesis) -> None:
    """SIGSTOP of PostgreSQL, whose connections stay open."""
    since = time.monotonic()
    nemesis.stack.postgres.pause()
    await nemesis.pause(PAUSED)
    nemesis.stack.postgres.resume()
    nemesis.rules.sessions.store_was_away(since, time.monotonic())


FAULTS: Mapping[str, Callable[[Nemesis], Awaitable[None]]] = {
    "primary killed": primary_killed,
    "primary paused": primary_paused,
    "primary paused shortly": primary_paused_shortly,
    "old primary wakes": old_primary_wakes,
    "failover loses the tail": tail_lost,
    "primary failed over": failed_over,
    "slots moved": slots_moved,
    "idle sidecar wakes": idle_sidecar_wakes,
    "sidecar killed": sidecar_killed,
    "sidecar paused": sidecar_paused,
    "sidecar cut off": sidecar_cut_off,
    "sidecar not heard": sidecar_not_heard,
    "sidecar clock off": sidecar_clock_off,
    "relays killed": relays_killed,
    "relays paused": relays_paused,
    "relay clock off": relay_clock_off,
    "PostgreSQL restarted": postgres_restarted,
    "PostgreSQL paused": postgres_paused,
}
