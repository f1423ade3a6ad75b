"""`python -m tests.bench.many_sidecars --sidecars 1000`: what a fleet costs the primaries of a real cluster.

A light sidecar is the connections of a real one, and what it sends to Redis while nobody calls it: subscriptions to all
partitions, heartbeats, probe messages, watermarks, with the same commands at the same intervals. Its CPU is not of interest,
that of the primaries is, as they count it themselves; so another program that uses the machine does not falsify it. Measured
are the fleet when nothing happens, changes that are published to all of it, and what follows the death of a primary.
"""

import asyncio
import itertools
import random
import resource
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import uvloop

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.backoff import Backoff
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.coherence import probe, region, subscriber
from cache_sidecar.tiers.ports import Record
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.node import Address
from cache_sidecar.tiers.redis.reading import NodeReader
from cache_sidecar.tiers.redis.scripts import SCRIPTS
from tests.support.dataset_case import open_l2
from tests.support.free_ports import later_ports

NAMES = KeyNames("fleet")
TICK = 0.005
"Seconds between two looks for what is due."
CONNECTING = 50
"Connections that are opened at the same time."
ID = "sku-{}"


def packed(*words: object) -> bytes:
    """Returns a command as it is sent."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Commands:
    """What every sidecar sends to one primary."""

    def __init__(self, partitions: list[int]) -> None:
        self.partitions = partitions
        counters = NodeReader(NAMES, [NAMES.counter(p) for p in partitions], partitions[0])
        marks = NodeReader(NAMES, [NAMES.watermark(role, p) for role in ROLES for p in partitions], partitions[0])
        self.own = packed(*counters.make(shared=False))
        self.looks = [b"".join(packed(*command) for command in one.look()) for one in (counters, marks)]
        self.makes = [packed(*one.make(shared=True)) for one in (counters, marks)]
        self.subscribe = b"".join(packed("SSUBSCRIBE", NAMES.channel(p)) for p in partitions)


class Subscription(asyncio.Protocol):
    """Receives messages of one primary."""

    def __init__(self, fleet: "Fleet", commands: Commands, name: str) -> None:
        self.channel = NAMES.probe(commands.partitions[0], name)
        self.ready = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self._fleet = fleet
        self._missing = len(commands.partitions) + 1

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= data.count(b"ssubscribe")
            if self._missing <= 0 and not self.ready.done():
                self.ready.set_result(None)
            return
        at = data.find(b" product sku-")
        while at >= 0:
            self._fleet.on_change(data[at + 13 : data.index(b"\r", at)])
            at = data.find(b" product sku-", at + 1)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


class Asking(asyncio.Protocol):
    """Sends heartbeats to one primary, and asks for watermarks."""

    def __init__(self, fleet: "Fleet", commands: Commands) -> None:
        self._fleet, self._commands = fleet, commands
        self._asked: deque[int] = deque()
        "Which of the two the replies are to, that are awaited."

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def look(self, which: int, more: bytes = b"") -> None:
        """Gets another's reading, or else has one made."""
        if not self._transport.is_closing():
            self._asked.append(which)
            self._transport.write(self._commands.looks[which] + more)

    def data_received(self, data: bytes) -> None:
        self._fleet.refused += data.startswith(b"-")
        # A reply is one piece, unless it is long: those begin as the short ones do.
        if self._asked and data.startswith((b"$", b"_")):
            which = self._asked.popleft()
            if data.startswith((b"$-1", b"_")):
                self._transport.write(self._commands.makes[which])


class Fleet:
    """Light sidecars, and when changes reached them."""

    def __init__(self, owners: Callable[[], Any], count: int) -> None:
        """`owners` returns the partitions of each primary."""
        self.count, self.beats, self.refused, self.connected = count, 0, 0, 0
        self.delays: list[float] = []
        self._owners = owners
        self._sent: dict[bytes, float] = {}
        self._gate = asyncio.Semaphore(CONNECTING)
        self._commands: dict[int, Commands] = {}
        self._wheel: list[list[Callable[[int], None]]] = [[] for _ in range(round(subscriber.HEARTBEAT_EVERY / TICK))]
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Connects every sidecar to every primary, and stays connected."""
        self._tasks.append(asyncio.create_task(self._beat()))
        for primary in range(3):
            self._tasks += [asyncio.create_task(self._stay(primary)) for _ in range(self.count)]
        while self.connected < 3 * self.count:
            await asyncio.sleep(TICK)

    async def _stay(self, primary: int) -> None:
        """Follows the primary that holds what the first, second or third one held when the cluster was made."""
        backoff, name = Backoff(), f"{random.getrandbits(64):016x}"
        while True:
            try:
                async with self._gate:
                    subscription, stop = await self._connect(primary, name)
            except OSError:
                await backoff.pause()
                continue
            self.connected += 1
            backoff.reset()
            await subscription.lost.wait()
            self.connected -= 1
            stop()
            await backoff.pause()

    async def _connect(self, primary: int, name: str) -> tuple[Subscription, Callable[[], None]]:
        loop = asyncio.get_running_loop()
        (host, port), partitions = (await self._owners())[primary]
        if (commands := self._commands.get(primary)) is None:
            commands = self._commands[primary] = Commands(partitions)
        to_hear, subscription = await loop.create_connection(lambda: Subscription(self, commands, name), host, port)
        to_hear.write(commands.subscribe + packed("SSUBSCRIBE", subscription.channel))
        async with asyncio.timeout(30):
            await subscription.ready
        to_ask, asking = await loop.create_connection(lambda: Asking(self, commands), host, port)
        to_ask.write(commands.own)
        slot, first = random.choice(self._wheel), random.randrange(1000)
        probe_every = round(probe.EVERY / subscriber.HEARTBEAT_EVERY)
        marks_every = round(region.READ_EVERY / subscriber.HEARTBEAT_EVERY)

        def beat(round: int) -> None:
            round += first
            asking.look(0, packed("SPUBLISH", subscription.channel, round) if round % probe_every == 0 else b"")
            if round % marks_every == 1 % marks_every:
                asking.look(1)

        slot.append(beat)

        def stop() -> None:
            slot.remove(beat)
            to_ask.abort()
            to_hear.abort()

        return subscription, stop

    async def _beat(self) -> None:
        due, slots = time.perf_counter(), len(self._wheel)
        for tick in itertools.count():
            for beat in self._wheel[tick % slots]:
                beat(tick // slots)
            self.beats += len(self._wheel[tick % slots])
            # Late ones are not made up for: a burst of them is not what a fleet sends.
            due = max(due + TICK, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())

    def send(self, number: int) -> None:
        """Notes that a change is about to be published."""
        self._sent[b"%d" % number] = time.perf_counter()

    def on_change(self, number: bytes) -> None:
        """A subscriber received a change."""
        self.delays.append(time.perf_counter() - self._sent[number])


class Meter:
    """What the primaries have used, by their own account."""

    def __init__(self, nodes: list[ValkeyServer]) -> None:
        self._nodes = nodes

    async def read(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for node in self._nodes:
            async with node.client() as client:
                found.append(await client.info("everything"))
        return found

    async def over(self, seconds: float) -> str:
        """Returns the CPU that each primary used in that time, and the commands that took most of it."""
        before, began = await self.read(), time.perf_counter()
        await asyncio.sleep(seconds)
        after, took = await self.read(), time.perf_counter() - began
        cores = [
            sum(new[key] - old[key] for key in ("used_cpu_user", "used_cpu_sys")) / took
            for old, new in zip(before, after, strict=True)
        ]
        commands = []
        for key in ("cmdstat_evalsha", "cmdstat_info", "cmdstat_get", "cmdstat_spublish", "cmdstat_ssubscribe"):
            old, new = (one[0].get(key, {"calls": 0, "usec": 0}) for one in (before, after))
            if calls := new["calls"] - old["calls"]:
                commands.append(f"{key[8:]} {calls / took:.0f}/s of {(new['usec'] - old['usec']) / calls:.1f} us")
        cpu = ", ".join(f"{100 * core:.1f}" for core in cores)
        memory = max(one["mem_clients_normal"] for one in after) / 1e6
        return f"{cpu} % of a core; {memory:.0f} MB for connections at most; first primary: {', '.join(commands)}"


@asynccontextmanager
async def cluster() -> AsyncIterator[ValkeyCluster]:
    """Runs a cluster with three primaries and three replicas."""
    state = StateDirectory(Path(tempfile.mkdtemp(prefix="cs-fleet-")))
    state.claim()
    processes = Processes(state)
    try:
        found = ValkeyCluster(processes, state.path / "valkey", later_ports(6))
        await found.start()
        yield found
    finally:
        await processes.stop_all()
        state.release()
        shutil.rmtree(state.path, ignore_errors=True)


async def _measure(sidecars: int, seconds: float, changes: float) -> None:
    async with cluster() as servers, open_l2(",".join(servers.addresses), NAMES.namespace) as l2:
        for node in servers.nodes:
            async with node.client() as client:
                await client.config_set("maxclients", 3 * sidecars + 100)
                await client.script_load(SCRIPTS["reading"].source)
        primaries: list[Address] = sorted((await l2.owners()), key=lambda address: address[1])
        held = [sorted((await l2.owners())[address]) for address in primaries]

        async def owners() -> list[tuple[Address, list[int]]]:
            now = {tuple(sorted(parts)): address for address, parts in (await l2.owners()).items()}
            return [(now.get(tuple(parts), address), parts) for parts, address in zip(held, primaries, strict=True)]

        meter = Meter(await servers.primaries())
        click.echo(f"without sidecars: {await meter.over(seconds)}")
        fleet, began = Fleet(owners, sidecars), time.perf_counter()
        await fleet.run()
        click.echo(f"{sidecars} sidecars connected in {time.perf_counter() - began:.1f} s")
        beats, began = fleet.beats, time.perf_counter()
        click.echo(f"idle: {await meter.over(seconds)}")
        rate, due = (fleet.beats - beats) / (time.perf_counter() - began), 3 * sidecars / subscriber.HEARTBEAT_EVERY
        click.echo(f"{rate:.0f} heartbeats/s, {100 * rate / due:.0f} % of what is due; {fleet.refused} refused")

        async def change() -> None:
            for number in range(round(seconds * changes)):
                fleet.send(number)
                await l2.put_if_newer("product", {ID.format(number): Record(number + 1, time.time(), b"sofa")}, ttl=600)
                await asyncio.sleep(max(0.0, began + number / changes - time.perf_counter()))

        began = time.perf_counter()
        changing = asyncio.create_task(change())
        click.echo(f"{changes:g} changes/s: {await meter.over(seconds)}")
        await changing
        await asyncio.sleep(1.0)
        fleet.delays.sort()
        p50, p99 = (1000 * fleet.delays[len(fleet.delays) * percent // 100] for percent in (50, 99))
        click.echo(f"{len(fleet.delays)} deliveries: p50 {p50:.1f} ms, p99 {p99:.1f} ms after the change was sent")

        victim = next(node for node in servers.nodes if node.port == primaries[0][1])
        replicas = [node for node in servers.nodes if node not in await servers.primaries()]
        before, began = await Meter(replicas).read(), time.perf_counter()
        victim.child.kill()
        while fleet.connected == 3 * sidecars:
            await asyncio.sleep(TICK)
        while fleet.connected < 3 * sidecars:
            await asyncio.sleep(TICK)
        after = await Meter(replicas).read()
        used = max(new["used_cpu_user"] + new["used_cpu_sys"] - old["used_cpu_user"] - old["used_cpu_sys"]
                   for old, new in zip(before, after, strict=True))  # fmt: skip
        click.echo(
            f"failover: all connected again after {time.perf_counter() - began:.1f} s; the new primary used {used:.2f} s of CPU, "
            f"{1e6 * used / sidecars:.0f} us for each sidecar"
        )


@click.command(help=__doc__)
@click.option("--sidecars", default=1000)
@click.option("--seconds", default=10.0, help="How long each part is measured.")
@click.option("--changes", default=100.0, help="Changes per second.")
def main(sidecars: int, seconds: float, changes: float) -> None:
    files = 6 * sidecars + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, max(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    uvloop.run(_measure(sidecars, seconds, changes))


if __name__ == "__main__":
    main()
