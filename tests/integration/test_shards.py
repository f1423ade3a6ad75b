"""Shards of a Redis Cluster fail one by one: what the others hold is read, written and told as ever."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.ports import Record, Times
from cache_sidecar.tiers.redis import cluster as cluster_module
from cache_sidecar.tiers.redis import node as shard_module
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.node import Address
from cache_sidecar.tiers.resilience.breaker import BREAK_AFTER
from tests.support import inside
from tests.support.cluster_proxies import Line, away, line_to
from tests.support.dataset_case import Direct, fill, one_id_per_partition, open_l2
from tests.support.proxy import Proxy
from tests.support.until import until

IDS = one_id_per_partition()[:60]
TIMES = Times(2000.0, expired_before=0.0, flush_before=0.0, ttl=600.0)


@pytest.fixture
async def line(valkey_cluster: ValkeyCluster) -> AsyncIterator[Line]:
    async with line_to(valkey_cluster.addresses) as opened:
        yield opened


@pytest.fixture
async def l2(line: Line, namespace: str) -> AsyncIterator[RedisL2]:
    async with open_l2(",".join(line.addresses), namespace, redis_timeout=0.5) as opened:
        await fill(opened, "product", {id: Record(1, 0.0, id.encode()) for id in IDS}, ttl=600)
        yield opened


async def one_shard(l2: RedisL2) -> tuple[Address, set[str]]:
    """Returns the address of a primary, and the ids that it holds."""
    address, slots = min((await inside.cluster_of(l2).owners()).items())
    held = {id for id in IDS if key_slot(inside.names_of(l2).key("product", id).encode()) in set(slots)}
    assert 0 < len(held) < len(IDS)
    return address, held


async def read(l2: RedisL2) -> set[str]:
    return set((await l2.read_leased("product", IDS)).records)


def proxy_of(line: Line, address: Address) -> Proxy:
    return line.to(f"{address[0]}:{address[1]}")


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_what_the_other_shards_hold_is_read_and_changed_while_one_is_away(l2: RedisL2, line: Line, how: str) -> None:
    address, held = await one_shard(l2)
    others = set(IDS) - held
    proxy = proxy_of(line, address)
    getattr(proxy, how)()
    for _ in range(BREAK_AFTER + 1):
        found = await l2.read_leased("product", IDS)
        assert set(found.records) == others
        assert not found.leases, "there is nothing to be filled in"
    assert away(inside.cluster_of(l2)) == {address}
    await l2.put_if_newer("product", {id: Record(2, 0.0, b"new") for id in others}, ttl=600)
    with pytest.raises(TierFailed):
        await l2.put_if_newer("product", {id: Record(2, 0.0, b"new") for id in held}, ttl=600)
    with pytest.raises(TierFailed):
        await l2.read_leased("product", list(held))
    await proxy.heal()

    async def is_whole() -> bool:
        return await read(l2) == set(IDS)

    await until(is_whole)
    assert not away(inside.cluster_of(l2))


async def test_the_failure_of_one_shard_fails_no_command_to_another(l2: RedisL2, line: Line) -> None:
    address, held = await one_shard(l2)
    proxy, others = proxy_of(line, address), sorted(set(IDS) - held)
    proxy.stall()
    asked = [asyncio.ensure_future(l2.read_leased("product", [id])) for id in held]
    while not all(task.done() for task in asked):
        assert set((await l2.read_leased("product", others)).records) == set(others)
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TierFailed}


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that pipelines are sent to."""
    send, ports = AbstractConnection.send_packed_command, list[int]()

    async def counted(connection: AbstractConnection, *command: object, **more: bool) -> None:
        ports.append(connection.port)  # type: ignore[attr-defined]  # of every connection by TCP
        await send(connection, *command, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    return ports


async def test_reads_of_one_turn_of_the_event_loop_share_a_pipeline_to_each_node(l2: RedisL2, pipelines: list[int]) -> None:
    _, held = await one_shard(l2)
    assert await read(l2) == set(IDS)
    # By now there are connections, and the scripts are known.
    one, other, *_ = sorted(held)
    await l2.touch("cart", [one], TIMES)
    pipelines.clear()
    found = await asyncio.gather(
        l2.read_leased("product", [one]), l2.read_leased("product", [other, "nobody"]), l2.touch("cart", [other], TIMES)
    )
    assert len(pipelines) == len({*pipelines}) <= 2, "nobody may be elsewhere"
    assert [set(one.records) for one in found] == [{one}, {other}, set()]
    assert [set(one.leases) for one in found] == [set(), {"nobody"}, {other}]
    pipelines.clear()
    everything, _ = await asyncio.gather(l2.read_leased("product", IDS), l2.touch("cart", [one], TIMES))
    assert set(everything.records) == set(IDS)
    assert len(pipelines) == len({*pipelines}) == 3
    pipelines.clear()
    for _ in range(2):
        await l2.read_leased("product", [one])
    assert len(pipelines) == 2, "what comes later has a pipeline of its own"


async def test_a_reader_who_leaves_takes_nothing_from_those_who_share_its_pipeline(
    l2: RedisL2, line: Line, namespace: str
) -> None:
    address, held = await one_shard(l2)
    one, other, third, *_ = sorted(held)
    async with open_l2(",".join(line.addresses), namespace, redis_timeout=10.0) as patiently:
        assert await read(patiently) == set(IDS)
        proxy = proxy_of(line, address)
        proxy.mute()
        early, late, patient = (asyncio.create_task(patiently.read_leased("product", [id])) for id in (one, other, third))
        while not inside.gathered_of(inside.at(inside.cluster_of(patiently), *address)):
            await asyncio.sleep(0)
        early.cancel()  # before it is sent
        await until(lambda: proxy.held)
        late.cancel()  # after that
        await proxy.heal()
        assert set((await patient).records) == {third}
        await asyncio.wait([early, late])
        assert early.cancelled()
        assert late.cancelled()
        assert await read(patiently) == set(IDS)


async def test_reads_that_share_a_pipeline_fail_together_and_those_of_other_nodes_do_not(l2: RedisL2, line: Line) -> None:
    address, held = await one_shard(l2)
    assert await read(l2) == set(IDS)
    others = set(IDS) - held
    proxy_of(line, address).cut()
    here, both, there = await asyncio.gather(
        l2.read_leased("product", sorted(held)),
        l2.read_leased("product", IDS),
        l2.read_leased("product", sorted(others)),
        return_exceptions=True,
    )
    assert isinstance(here, TierFailed)
    assert not isinstance(both, BaseException)
    assert not isinstance(there, BaseException)
    assert set(both.records) == set(there.records) == others


async def test_a_shard_that_is_away_is_failed_without_being_asked(
    l2: RedisL2, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A request for the slot map may choose this node, and counts as well.
    monkeypatch.setattr(cluster_module, "MAP_EVERY", math.inf)
    address, held = await one_shard(l2)
    proxy, id = proxy_of(line, address), min(held)
    proxy.stall()
    for expected in [Failure.TIMEOUT] * BREAK_AFTER + [Failure.UNREACHABLE]:
        with pytest.raises(TierFailed) as caught:
            await l2.read_leased("product", [id])
        assert caught.value.failure is expected


async def test_a_connection_that_is_lost_while_it_is_written_to_costs_nothing(
    l2: RedisL2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop says so by a RuntimeError, which redis-py passes on."""
    assert await read(l2) == set(IDS)
    send, lost = AbstractConnection.send_packed_command, []

    async def fail_once(connection: AbstractConnection, *command: object, **more: bool) -> None:
        if not lost:
            lost.append(connection)
            await connection.disconnect()
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        await send(connection, *command, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", fail_once)
    assert await read(l2) == set(IDS)
    assert lost


async def test_replicas_that_were_asked_in_an_outage_are_well_after_it(l2: RedisL2, line: Line) -> None:
    """Nobody asks them anything while the primaries answer: who holds what is the same as before."""
    dependencies = inside.connection_of(l2).dependencies
    await inside.cluster_of(l2).owners()
    line.cut()
    for _ in range(BREAK_AFTER):
        with pytest.raises(TierFailed):
            await inside.cluster_of(l2).owners()
    assert len(dependencies.failing()) == len(line.addresses)
    await line.heal()

    async def is_well() -> bool:
        # With a breaker open, one in so many is let through.
        await asyncio.gather(
            inside.cluster_of(l2).owners(),
            *(inside.cluster_of(l2).ask_all([("PING",)]) for _ in range(2)),
            return_exceptions=True,
        )
        return not dependencies.failing()

    await until(is_well)


async def test_connections_that_were_closed_while_idle_cost_nothing(l2: RedisL2, line: Line) -> None:
    await asyncio.gather(*(read(l2) for _ in range(5)))
    line.cut()
    await line.heal()
    assert await read(l2) == set(IDS)


async def test_whoever_asks_all_primaries_finds_the_one_that_took_over(l2: RedisL2) -> None:
    """The relay does nothing else as long as there is no news."""
    address, _ = await one_shard(l2)
    shards = inside.cluster_of(l2)
    gone = inside.at(shards, "127.0.0.1", 1)
    inside.set_owners(
        shards, {slot: gone if shard.address == address else shard for slot, shard in inside.owners_of(shards).items()}
    )
    inside.set_ranges(shards, None)
    assert isinstance((await shards.ask_all([("PING",)]))[gone.address][0], TierFailed)

    async def is_found() -> bool:
        return address in await shards.ask_all([("PING",)])

    await until(is_found)
    assert set(await shards.ask_all([("PING",)])) == set(await shards.owners())


async def test_a_slot_that_is_moving_is_found_on_either_side(l2: RedisL2, valkey_cluster: ValkeyCluster) -> None:
    """The server answers ASK for a key that is not there any more, or not yet."""
    source, target = (await valkey_cluster.primaries())[:2]
    async with source.client() as giver, target.client() as taker:
        ranges = await giver.execute_command("CLUSTER SLOTS")
        held = [(first, last) for first, last, primary, *_ in ranges if primary[1] == source.port]
        slots = {id: key_slot(inside.names_of(l2).key("product", id).encode()) for id in IDS}
        id = next(id for id in IDS if any(first <= slots[id] <= last for first, last in held))
        key = inside.names_of(l2).key("product", id)
        await Direct(l2).unlink(key)
        ids = await giver.cluster("MYID"), await taker.cluster("MYID")
        await taker.cluster("SETSLOT", slots[id], "IMPORTING", ids[0])
        await giver.cluster("SETSLOT", slots[id], "MIGRATING", ids[1])
        try:
            assert set((await l2.read_leased("product", [id])).leases) == {id}
            assert int(await taker.cluster("COUNTKEYSINSLOT", slots[id])) == 1
        finally:
            await inside.at(inside.cluster_of(l2), "127.0.0.1", target.port).exchange([("ASKING",), ("UNLINK", key)])
            await taker.cluster("SETSLOT", slots[id], "STABLE")
            await giver.cluster("SETSLOT", slots[id], "STABLE")


async def test_connections_that_nobody_uses_for_long_are_closed_and_no_others(
    l2: RedisL2, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = await one_shard(l2)
    proxy, shard, loop = proxy_of(line, address), inside.at(inside.cluster_of(l2), *address), asyncio.get_running_loop()
    await asyncio.gather(*(shard.exchange([("PING",)]) for _ in range(8)))
    assert proxy.connections == 8
    inside.trim(shard, loop)
    await shard.exchange([("PING",)])
    assert proxy.connections == 8, "nobody used them for a moment only"
    proxy.stall()
    asked = asyncio.ensure_future(shard.exchange([("PING",)]))
    await until(lambda: len(inside.idle_of(shard)) == 7)
    monkeypatch.setattr(shard_module, "IDLE", 0.0)
    inside.trim(shard, loop)
    await until(lambda: proxy.connections == 1)
    await proxy.heal()
    assert await asked == [b"PONG"]
    await until(lambda: proxy.connections == 0)
    assert await shard.exchange([("PING",)]) == [b"PONG"]


async def test_a_server_that_answers_reads_and_no_writes_is_asked_for_no_more_writes(
    valkey: ValkeyServer, namespace: str
) -> None:
    """Each write is held by the server, while a read that began after it is answered."""
    async with open_l2(valkey.address, namespace, redis_timeout=0.25) as l2, valkey.client() as client:
        (id, key), change = (IDS[0], inside.names_of(l2).key("product", IDS[0])), {IDS[0]: Record(2, 0.0, b"new")}
        node = inside.connection_of(l2).dependencies.of("redis", valkey.address)
        await l2.put_if_newer("product", {id: Record(1, 0.0, b"old")}, ttl=600)
        await client.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        try:
            for expected in [Failure.TIMEOUT] * BREAK_AFTER + [Failure.REFUSED]:
                writing = asyncio.ensure_future(l2.put_if_newer("product", change, ttl=600))
                await asyncio.sleep(0)
                while not writing.done():
                    assert await inside.cluster_of(l2).ask(key_slot(key.encode()), "GET", key), "what it holds is read"
                failed = writing.exception()
                assert isinstance(failed, TierFailed)
                assert failed.failure is expected
            assert not away(inside.cluster_of(l2))
            assert (found := node.failing()) is not None
            assert "no write within 0.25 s" in found.reason
        finally:
            await client.execute_command("CLIENT", "UNPAUSE")

        async def is_told() -> bool:
            with contextlib.suppress(TierFailed):
                await l2.put_if_newer("product", change, ttl=600)
                return True
            return False

        await until(is_told)
        assert node.failing() is None
        assert (await l2.read("product", [id]))[id].version == 2
