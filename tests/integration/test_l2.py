"""L2 on a real cluster and on a single server: what is stored, what is refused, what is told."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import RedisCluster

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.ports import PARTITIONS, Record, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.scripts import SCRIPTS, Script
from tests.support import inside
from tests.support.dataset_case import Direct, OpenL2, fill, one_id_per_partition, open_l2
from tests.support.free_ports import free_ports
from tests.support.proxy import Proxy

AWKWARD = ["{a}b", "a{b}", "{}", "}{", "a:b", ":", " ", "a b  c", "ä", "\U0001f6cb", "a\u2028b", "*", "[a]", "'\"", "\\", "%s"]


@pytest.fixture
async def either(open_either: OpenL2) -> AsyncIterator[RedisL2]:
    async with open_either() as opened:
        yield opened


def record(version: int, value: bytes | None = b"sofa", *, read_at: float = 1000.0) -> Record:
    return Record(version, read_at, value)


async def held(l2: RedisL2, id: str = "a") -> tuple[int, bytes | None] | None:
    found = (await l2.read("product", [id])).get(id)
    return found and (found.version, found.value)


async def messages(l2: RedisL2, id: str = "a") -> int:
    """Returns how many messages were sent in the partition of an id."""
    client = Direct(l2)
    return int(await client.get(inside.names_of(l2).counter(partition_of(id))) or 0)


# What is stored


async def test_what_is_filled_is_read(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(7), "b": record(0, None)}, ttl=60)
    assert await either.read("product", ["a", "b", "c"]) == {"a": record(7), "b": record(0, None)}


async def test_a_fill_replaces_what_is_older_and_refuses_to_go_back(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(2, b"two")}, ttl=60)
    await fill(either, "product", {"a": record(1, b"one")}, ttl=60)
    assert await held(either) == (2, b"two")
    await fill(either, "product", {"a": record(3, b"three")}, ttl=60)
    assert await held(either) == (3, b"three")


async def test_a_fill_of_the_same_version_was_read_later(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(2, read_at=1000)}, ttl=60)
    await fill(either, "product", {"a": record(2, read_at=1005)}, ttl=60)
    assert (await either.read("product", ["a"]))["a"].read_at == 1005


async def test_a_fill_tells_nobody(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(2)}, ttl=60)
    assert await messages(either) == 0


async def test_a_change_replaces_what_is_older_and_tells(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(1)}, ttl=60)
    await either.put_if_newer("product", {"a": record(2, b"new")}, ttl=60)
    assert await held(either) == (2, b"new")
    assert await messages(either) == 1


async def test_a_change_that_comes_late_stores_nothing(either: RedisL2) -> None:
    await either.put_if_newer("product", {"a": record(3, b"three")}, ttl=60)
    await either.put_if_newer("product", {"a": record(2, b"two")}, ttl=60)
    assert await held(either) == (3, b"three")


async def test_race_21_a_change_that_is_sent_twice_changes_nothing_more(either: RedisL2) -> None:
    for _ in range(2):
        await either.put_if_newer("product", {"a": record(2, b"new")}, ttl=60)
    await either.put_if_newer("product", {"a": 2}, ttl=60)  # the relay, later
    assert await held(either) == (2, b"new")


async def test_a_change_is_told_even_when_a_reader_filled_it_first(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(2)}, ttl=60)
    await either.put_if_newer("product", {"a": record(2)}, ttl=60)
    await fill(either, "product", {"a": record(4)}, ttl=60)
    await either.put_if_newer("product", {"a": 3}, ttl=60)
    assert await messages(either) == 2
    assert await held(either) == (4, b"sofa")


async def test_a_bare_version_is_a_miss_that_refuses_what_is_older(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(1)}, ttl=60)
    await either.put_if_newer("product", {"a": 2}, ttl=60)
    assert await held(either) is None
    await fill(either, "product", {"a": record(1)}, ttl=60)
    assert await held(either) is None
    await fill(either, "product", {"a": record(2)}, ttl=60)
    assert await held(either) == (2, b"sofa")


async def test_a_deletion_refuses_what_is_older(either: RedisL2) -> None:
    await either.put_if_newer("product", {"a": record(2, None)}, ttl=60)
    await fill(either, "product", {"a": record(1)}, ttl=60)
    await fill(either, "product", {"a": record(0, None)}, ttl=60)
    assert await held(either) == (2, None)


async def test_versions_beyond_what_lua_s_numbers_hold_are_told_apart(either: RedisL2) -> None:
    large = 2**62
    await fill(either, "product", {"a": record(large + 1, b"new")}, ttl=60)
    await fill(either, "product", {"a": record(large, b"old")}, ttl=60)
    assert await held(either) == (large + 1, b"new")


@pytest.mark.parametrize("ttl", [60.0, 0.0001])
async def test_what_is_stored_ends(either: RedisL2, ttl: float) -> None:
    await fill(either, "product", {"a": record(1)}, ttl=ttl)
    await either.put_if_newer("product", {"b": record(1)}, ttl=ttl)
    client = Direct(either)
    for id in "ab":
        left = await client.pttl(inside.names_of(either).key("product", id))
        assert left == -2 or 0 <= left <= max(1, ttl * 1000)


@pytest.mark.parametrize("id", AWKWARD)
async def test_awkward_ids_are_ids_like_others(either: RedisL2, id: str) -> None:
    await either.put_if_newer("product", {id: record(1, id.encode())}, ttl=60)
    assert await either.read("product", [id]) == {id: record(1, id.encode())}
    await either.drop("product", [id])
    assert await either.read("product", [id]) == {}


@given(id=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_key_counter_and_channel_of_an_id_share_a_slot(id: str) -> None:
    client = RedisCluster(host="127.0.0.1", port=1)
    names = KeyNames("shop")
    partition = partition_of(id)
    slots = {client.keyslot(key) for key in (names.key("product", id), names.counter(partition), names.channel(partition))}
    assert slots == {names.slot(partition)}


async def test_many_ids_in_one_call(either: RedisL2) -> None:
    ids = one_id_per_partition()
    await fill(either, "product", {id: record(1, id.encode()) for id in ids}, ttl=60)
    assert await either.read("product", ids) == {id: record(1, id.encode()) for id in ids}


# Dropping


async def test_a_drop_removes_and_tells(either: RedisL2) -> None:
    await fill(either, "product", {"a": record(1), "b": record(1)}, ttl=60)
    await either.drop("product", ["a", "never-there"])
    assert await either.read("product", ["a", "b"]) == {"b": record(1)}
    assert await messages(either) == 1


async def test_dropping_all_removes_the_dataset_and_tells_every_partition(either: RedisL2, open_either: OpenL2) -> None:
    ids = one_id_per_partition()
    await fill(either, "product", {id: record(1) for id in ids}, ttl=60)
    await fill(either, "products", {"a": record(1)}, ttl=60)
    assert await either.drop_all("product") == PARTITIONS
    assert await either.read("product", ids) == {}
    assert await either.read("products", ["a"]) == {"a": record(1)}
    assert [await messages(either, id) for id in ids] == [1] * PARTITIONS
    assert await either.drop_all("product") == 0


async def test_dropping_more_than_one_page(either: RedisL2) -> None:
    ids = [f"id{number}" for number in range(2500)]
    await fill(either, "product", {id: record(1) for id in ids}, ttl=60)
    assert await either.drop_all("product") == 2500


async def test_namespaces_do_not_see_each_other(either: RedisL2, open_either: OpenL2, namespace: str) -> None:
    await fill(either, "product", {"a": record(1)}, ttl=60)
    other = RedisL2(inside.connection_of(either), KeyNames(namespace + "x"))
    assert await other.read("product", ["a"]) == {}
    assert await other.drop_all("product") == 0
    assert await held(either) == (1, b"sofa")


# What is not ours


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"foreign",
        b"0" * 16,
        b"zz" * 40,
        codec.encode(record(9))[:-1],
        b"0000000000000009" + b"\xff" * 60,
        codec.encode(record(2**63)),
        codec.encode(record(2**64 - 1)),
        codec.invalidation(2**63),
    ],
)
async def test_a_foreign_or_broken_value_is_a_miss_and_is_replaced(either: RedisL2, value: bytes) -> None:
    client = Direct(either)
    await client.set(inside.names_of(either).key("product", "a"), value)
    assert await held(either) is None
    await fill(either, "product", {"a": record(10)}, ttl=60)
    assert await held(either) == (10, b"sofa")


@pytest.mark.parametrize("command", [("LPUSH", "x"), ("HSET", "f", "v"), ("SADD", "x")])
async def test_a_value_of_another_type_is_a_miss_and_is_replaced(either: RedisL2, command: tuple[str, ...]) -> None:
    client = Direct(either)
    for id in "ab":
        await client.execute_command(command[0], inside.names_of(either).key("product", id), *command[1:])
    assert await either.read("product", ["a", "b", "c"]) == {}
    await fill(either, "product", {"a": record(1), "c": record(1)}, ttl=60)
    await either.put_if_newer("product", {"b": 1}, ttl=60)
    assert await either.read("product", ["a", "b", "c"]) == {"a": record(1), "c": record(1)}
    assert await messages(either, "b") >= 1


async def test_unreadable_values_are_counted(either: RedisL2) -> None:
    client = Direct(either)
    await client.set(inside.names_of(either).key("product", "a"), b"foreign")
    await held(either)
    assert either.unreadable["product"] == 1


# Scripts


async def forget_scripts(cluster: ValkeyCluster, *, on: slice = slice(None)) -> None:
    for node in (await cluster.primaries())[on]:
        async with node.client() as client:
            await client.script_flush()


@pytest.mark.parametrize("on", [slice(None), slice(1), slice(1, None)])
async def test_scripts_that_are_gone_are_loaded_again(l2: RedisL2, valkey_cluster: ValkeyCluster, on: slice) -> None:
    ids = one_id_per_partition()
    await fill(l2, "product", {id: record(1) for id in ids}, ttl=60)
    await forget_scripts(valkey_cluster, on=on)
    await l2.put_if_newer("product", {id: record(2) for id in ids}, ttl=60)
    assert {found.version for found in (await l2.read("product", ids)).values()} == {2}
    assert [await messages(l2, id) for id in ids] == [1] * PARTITIONS


async def test_many_at_once_find_no_scripts(l2: RedisL2, valkey_cluster: ValkeyCluster) -> None:
    await fill(l2, "product", {"a": record(1)}, ttl=60)
    await forget_scripts(valkey_cluster)
    await asyncio.gather(*(l2.put_if_newer("product", {id: record(2)}, ttl=60) for id in islice(one_id_per_partition(), 20)))


async def test_redis_gives_each_script_the_digest_that_it_is_called_by(valkey_cluster: ValkeyCluster) -> None:
    async with valkey_cluster.nodes[0].client() as client:
        assert [await client.script_load(script.source) for script in SCRIPTS.values()] == [
            script.digest for script in SCRIPTS.values()
        ]


async def test_a_script_that_cannot_be_loaded_is_a_refusal(l2: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCRIPTS, "fill", Script("#!lua\nnot lua", "0" * 40))
    with pytest.raises(TierFailed) as caught:
        await fill(l2, "product", {"a": record(1)}, ttl=60)
    assert (caught.value.tier, caught.value.failure) == (Tier.L2, Failure.REFUSED)


# Who holds what


async def test_the_owners_are_the_primaries_with_all_partitions_between_them(
    l2: RedisL2, valkey_cluster: ValkeyCluster
) -> None:
    owners = await l2.owners()
    assert {port for _, port in owners} == {node.port for node in await valkey_cluster.primaries()}
    assert sorted(partition for held in owners.values() for partition in held) == list(range(PARTITIONS))


async def test_a_single_server_owns_everything(valkey: ValkeyServer, namespace: str) -> None:
    async with open_l2(valkey.address, namespace) as l2:
        assert await l2.owners() == {("127.0.0.1", valkey.port): list(range(PARTITIONS))}


@pytest.mark.parametrize("mode", ["auto", "cluster"])
async def test_one_node_is_enough_to_find_the_cluster(valkey_cluster: ValkeyCluster, namespace: str, mode: str) -> None:
    async with open_l2(valkey_cluster.addresses[4], namespace, redis_mode=mode) as l2:
        await fill(l2, "product", {id: record(1) for id in "abcdef"}, ttl=60)
        assert len(await l2.read("product", list("abcdef"))) == 6


# Away, slow, full


async def read(l2: RedisL2) -> object:
    return await l2.read("product", ["a"])


async def read_leased(l2: RedisL2) -> object:
    return await l2.read_leased("product", ["a"])


async def fill_unleased(l2: RedisL2) -> object:
    return await l2.fill("product", {"a": record(1)}, {}, ttl=60)


async def drop_all(l2: RedisL2) -> object:
    return await l2.drop_all("product")


@pytest.mark.parametrize(("mode", "nodes"), [("auto", 1), ("auto", 2), ("cluster", 1), ("single", 1)])
@pytest.mark.parametrize("work", [read, read_leased, fill_unleased, drop_all])
async def test_a_redis_that_is_away_is_unreachable(namespace: str, mode: str, nodes: int, work: object) -> None:
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports([0] * nodes))
    async with open_l2(addresses, namespace, redis_mode=mode) as l2:
        for _ in range(2):
            with pytest.raises(TierFailed) as caught:
                await work(l2)  # type: ignore[operator]
            assert caught.value.failure is Failure.UNREACHABLE


async def test_a_cluster_that_is_away_has_no_owners(namespace: str) -> None:
    async with open_l2(",".join(f"127.0.0.1:{port}" for port in free_ports([0, 0])), namespace) as l2:
        for _ in range(2):
            with pytest.raises(TierFailed):
                await l2.owners()


@pytest.mark.parametrize("work", [read, read_leased, fill_unleased])
async def test_a_redis_that_hangs_is_a_timeout_and_heals(valkey: ValkeyServer, namespace: str, work: object) -> None:
    async with Proxy(valkey.address) as proxy, open_l2(proxy.address, namespace, redis_timeout=0.1) as l2:
        await work(l2)  # type: ignore[operator]
        proxy.stall()
        with pytest.raises(TierFailed) as caught:
            await work(l2)  # type: ignore[operator]
        assert caught.value.failure is Failure.TIMEOUT
        await proxy.heal()
        await work(l2)  # type: ignore[operator]


async def test_a_connection_that_was_cut_is_made_again(valkey: ValkeyServer, namespace: str) -> None:
    async with Proxy(valkey.address) as proxy, open_l2(proxy.address, namespace) as l2:
        await fill(l2, "product", {"a": record(1)}, ttl=60)
        proxy.cut()
        with pytest.raises(TierFailed):
            await read(l2)
        await proxy.heal()
        assert await held(l2) == (1, b"sofa")


async def test_a_wrong_password_is_no_defect(valkey: ValkeyServer, namespace: str) -> None:
    async with open_l2(valkey.address, namespace, redis_username="nobody", redis_password="wrong") as l2:
        with pytest.raises(TierFailed) as caught:
            await read(l2)
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


async def test_more_at_once_than_connections_is_busy_not_away(valkey_cluster: ValkeyCluster, namespace: str) -> None:
    async with open_l2(",".join(valkey_cluster.addresses), namespace, redis_max_connections=2) as l2:
        await fill(l2, "product", {"a": record(1)}, ttl=60)
        outcomes = await asyncio.gather(*(read(l2) for _ in range(50)), return_exceptions=True)
        failures = {outcome.failure for outcome in outcomes if isinstance(outcome, TierFailed)}
        assert failures <= {Failure.BUSY}
        assert all(isinstance(outcome, dict | TierFailed) for outcome in outcomes)
        assert await held(l2) == (1, b"sofa")


async def test_a_full_redis_still_tells_of_changes(valkey: ValkeyServer, namespace: str) -> None:
    async with open_l2(valkey.address, namespace) as l2, valkey.client() as client:
        await fill(l2, "product", {"a": record(1, b"old")}, ttl=60)
        await client.config_set("maxmemory", "1")
        try:
            with pytest.raises(TierFailed):
                await fill(l2, "product", {"b": record(1)}, ttl=60)
            await l2.put_if_newer("product", {"a": record(2, b"new")}, ttl=60)
            assert await messages(l2) == 1
            assert await held(l2) in (None, (2, b"new"))
        finally:
            await client.config_set("maxmemory", "0")
        # What is older must not come back when there is room again.
        await fill(l2, "product", {"a": record(1, b"old")}, ttl=60)
        assert await held(l2) in (None, (2, b"new"))
