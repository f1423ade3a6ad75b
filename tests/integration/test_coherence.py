"""Hearing of changes made elsewhere, and knowing when some may have been missed. The numbers are those of the coherence
contract's list of races."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis

from cache_sidecar.core.clock import ManualClock
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.coherence import subscriber as module
from cache_sidecar.tiers.coherence.subscriber import Feed, InvalidationSubscriber, staleness_bound
from cache_sidecar.tiers.ports import PARTITIONS, Record, Source
from cache_sidecar.tiers.redis.keys import KeyNames
from tests.gates import Gate
from tests.listening import HERE, Line, open_line
from tests.proxy import Proxy
from tests.sidecars import until
from tests.tiers import Case, fill, open_case, reading, redis_settings


@pytest.fixture
def nodes(valkey_cluster: ValkeyCluster) -> str:
    return ",".join(valkey_cluster.addresses)


@pytest.fixture
async def line(nodes: str, namespace: str) -> AsyncIterator[Line]:
    async with open_line(nodes, namespace) as opened:
        yield opened


# Beginning and end


async def test_race_20_a_partition_is_dropped_before_it_is_trusted(nodes: str, namespace: str) -> None:
    async with open_line(nodes, namespace, trusted=False) as line:
        assert not line.coherence.is_trusted()
        await line.trusted()
        assert line.ear.order == ["drop", "trust"]
        assert sorted(line.ear.partitions) == list(range(PARTITIONS))


async def test_the_counters_are_the_same_with_the_functions_and_without(nodes: str, namespace: str) -> None:
    async with open_line(nodes, namespace) as line:
        feeds = list(line.coherence._feeds.values())
        none = [await feed._read_state() for feed in feeds]
        assert none == [await feed._read_state() for feed in feeds]
        await line.change("a", 1)  # loads the functions
        counted = [await feed._read_state() for feed in feeds]
        values = [await feed._read_state_without_function() for feed in feeds]
        assert [list(counters.values()) for counters, _ in counted] == [
            list(map(int, [v or 0 for v in found])) for found, _ in values
        ]
        assert [history for _, history in counted] == [replication["master_replid"] for _, replication in values]
        assert sum(sum(counters.values()) for counters, _ in counted) == 1


async def test_race_20_nothing_is_counted_or_trusted_before_the_subscription_is_acknowledged(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged, read_state = Feed._acknowledged, Feed._read_state
    gate, counted = Gate(), []

    async def held(feed: Feed, pubsub: object) -> None:
        await gate.passed()
        await acknowledged(feed, pubsub)

    async def noted(feed: Feed) -> object:
        counted.append(feed)
        return await read_state(feed)

    monkeypatch.setattr(Feed, "_acknowledged", held)
    monkeypatch.setattr(Feed, "_read_state", noted)
    gate.close()
    async with open_line(nodes, namespace, trusted=False) as line:
        await until(lambda: gate.waiting == 3)
        # Others may be listening in this process, too.
        assert not set(counted) & set(line.coherence._feeds.values())
        assert line.ear.trusted == set()
        gate.open()
        await line.trusted()


async def test_stopping_ends_the_trust_and_leaves_nothing_running(nodes: str, namespace: str) -> None:
    before = asyncio.all_tasks()
    async with open_line(nodes, namespace) as line:
        await line.coherence.stop()
        assert line.ear.trusted == set()
        assert not line.coherence.is_trusted()
    await until(lambda: asyncio.all_tasks() - before == set())


async def test_stopping_what_never_started_is_fine(nodes: str, namespace: str) -> None:
    line = Line(redis_settings(nodes), namespace)
    await line.coherence.stop()
    await line.connection.close()


async def test_a_redis_that_comes_later_is_listened_to(
    valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 0.02)
    await valkey.stop()
    try:
        async with open_line(valkey.address, namespace, trusted=False) as line:
            asked = monkeypatch_counter(line, monkeypatch)
            await until(lambda: len(asked) > 2)
            await valkey.start()
            await line.trusted()
    finally:
        await valkey.restart()


async def test_a_cluster_that_comes_later_is_listened_to(
    valkey_cluster: ValkeyCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 0.02)
    async with Proxy(valkey_cluster.addresses[0]) as proxy:
        proxy.cut()
        async with open_line(f"{proxy.address},127.0.0.1:1", namespace, trusted=False) as line:
            asked = monkeypatch_counter(line, monkeypatch)
            await until(lambda: len(asked) > 2)
            await proxy.heal()
            await line.trusted()


async def test_a_connection_that_is_lost_while_it_is_written_to_ends_no_feed(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop says so by a RuntimeError, which redis-py passes on."""
    read_state, lost = Feed._read_state, []

    async def fail_once(feed: Feed) -> object:
        if feed not in lost:
            lost.append(feed)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return await read_state(feed)

    monkeypatch.setattr(Feed, "_read_state", fail_once)
    await until(lambda: len(lost) == len(line.coherence._feeds) and "distrust" in line.ear.order)
    await line.trusted()


async def test_who_holds_what_is_asked_again_soon_when_a_feed_breaks(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 3600.0)
    monkeypatch.setattr(module, "TOPOLOGY_AGAIN", 0.02)
    async with open_line(nodes, namespace) as line:
        asked = monkeypatch_counter(line, monkeypatch)
        beats = len(asked)
        next(iter(line.coherence._feeds.values())).on_expired(0.0)
        await until(lambda: len(asked) > beats)
        await line.trusted()


def monkeypatch_counter(line: Line, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Counts how often it is asked who holds what."""
    asked: list[None] = []
    owners = line.l2.owners

    async def counted() -> object:
        asked.append(None)
        return await owners()

    monkeypatch.setattr(line.l2, "owners", counted)
    return asked


# Hearing


async def test_a_change_is_heard_by_everybody(line: Line, nodes: str, namespace: str) -> None:
    async with open_line(nodes, namespace) as other:
        await other.change("a", 7)
        await line.heard("a", 7)
        await other.heard("a", 7)
        assert line.ear.partitions == []
        assert line.woken == 1


@pytest.mark.parametrize("id", ["a b", " ", "{a}", "a:b", "ä", "\U0001f6cb", "7 0000000000000001 product x"])
async def test_awkward_ids_are_heard_whole(line: Line, id: str) -> None:
    await line.change(id, 2**60 + 1)
    await line.heard(id, 2**60 + 1)


async def test_drops_are_heard(line: Line) -> None:
    await line.l2.drop("product", ["a"])
    await line.heard("a", 0)
    await line.l2.drop_all("product")
    await until(lambda: sorted(line.ear.partitions) == list(range(PARTITIONS)))


async def test_other_datasets_and_namespaces_are_not_ours(line: Line, nodes: str, namespace: str) -> None:
    await line.l2.change("cart", {"a": 5}, ttl=60)
    async with open_line(nodes, namespace + "x") as other:
        await other.change("a", 6)
    await line.change("a", 7)
    await line.heard("a", 7)
    assert line.ear.changes == [("a", 7)]
    assert line.ear.partitions == []


async def test_a_thousand_changes_are_heard_in_order_and_without_a_gap(line: Line) -> None:
    await line.l2.change("product", {f"id{number}": number + 1 for number in range(1000)}, ttl=60)
    await until(lambda: len(line.ear.changes) == 1000)
    assert sorted(line.ear.changes, key=lambda change: change[1]) == [(f"id{n}", n + 1) for n in range(1000)]
    assert line.ear.partitions == []


# Missing something


async def test_a_gap_in_the_numbers_drops_the_partition(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 3600.0)  # the heartbeat does not see it
    await line.change("a", 1)
    await line.heard("a", 1)
    await line.command("INCR", line.names.counter(HERE))
    await line.change("a", 3)
    await line.heard("a", 3)
    assert line.ear.partitions == [HERE]
    await line.change("a", 4)
    await line.heard("a", 4)
    assert line.ear.partitions == [HERE]


async def test_race_14_a_heartbeat_finds_a_lost_message_that_nothing_follows(line: Line) -> None:
    await line.command("INCR", line.names.counter(HERE))
    await line.dropped()
    assert set(line.ear.partitions) == {HERE}


async def test_race_16_numbers_of_another_history_are_no_comfort(valkey: ValkeyServer, namespace: str) -> None:
    """The counter is where it was, after going back and on again between two heartbeats; only the history tells."""
    async with open_line(valkey.address, namespace) as line:
        await line.change("a", 1)
        await line.heard("a", 1)
        line.ear.forget()
        await line.command("DEBUG", "CHANGE-REPL-ID")
        await line.dropped()
        assert line.ear.order[:2] == ["distrust", "drop"]
        await line.trusted()


async def test_race_24_a_counter_that_is_lost_is_noticed(line: Line) -> None:
    await line.change("a", 1)
    await line.heard("a", 1)
    await line.command("DEL", line.names.counter(HERE))
    await line.dropped()
    await line.change("a", 2)
    await line.heard("a", 2)
    assert line.ear.partitions == [HERE]


async def test_race_24_also_when_it_counts_again_before_anybody_looks(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        await line.change("a", version)
    await line.heard("a", 2)
    await line.command("DEL", line.names.counter(HERE))
    await line.change("a", 3)
    await line.heard("a", 3)
    assert line.ear.partitions == [HERE]


async def test_a_message_that_comes_twice_costs_no_more_than_the_partition(line: Line) -> None:
    await line.change("a", 1)
    await line.heard("a", 1)
    again = f"1 {1:016x} product a"
    await line.command("SPUBLISH", line.names.channel(HERE), again)
    await until(lambda: line.ear.changes.count(("a", 1)) == 2)
    assert line.ear.partitions == [HERE]


@pytest.mark.parametrize(
    "message", [b"", b"x", b"1 2 3", b"x 1 product a", b"1 xyz product a", b"2 1 product \xff", b"9" * 5000]
)
async def test_a_foreign_message_drops_the_partition_and_is_survived(line: Line, message: bytes) -> None:
    await line.command("SPUBLISH", line.names.channel(HERE), message)
    await line.dropped()
    await line.change("a", 1)
    await line.heard("a", 1)
    assert line.coherence.is_trusted()


async def test_a_foreign_counter_ends_the_trust_until_it_is_gone(line: Line) -> None:
    await line.command("SET", line.names.counter(HERE), "not a number")
    await until(lambda: HERE not in line.ear.trusted)
    await line.command("DEL", line.names.counter(HERE))
    await line.trusted()
    await line.change("a", 1)
    await line.heard("a", 1)


# Connections that break


async def test_race_12_what_is_changed_while_the_subscription_is_broken_is_dropped(
    line: Line, valkey_cluster: ValkeyCluster
) -> None:
    for _ in range(3):
        line.ear.forget()
        for node in await valkey_cluster.primaries():
            async with node.client() as client:
                for found in await client.client_list(_type="pubsub"):
                    await client.client_kill_filter(_id=found["id"])
        # Whether it was sent before, between or after: it is heard, or the partition is dropped.
        await line.change("a", 1)
        await until(lambda: line.ear.changes or HERE in line.ear.partitions)
        await line.trusted()


async def test_race_12_a_broken_subscription_is_not_mended_in_silence(
    valkey: ValkeyServer, namespace: str, heartbeats: Gate
) -> None:
    async with open_line(valkey.address, namespace) as line:
        # So that nothing else says it.
        heartbeats.close()
        await heartbeats.reached()
        await line.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: line.ear.order)
        assert line.ear.order == ["distrust"]
        heartbeats.open()
        await line.trusted()
        assert line.ear.order == ["distrust", "drop", "trust"]


async def test_race_15_a_partition_whose_owner_is_another_is_listened_to_anew(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 0.02)
    async with open_line(nodes, namespace) as line:
        owners = await line.l2.owners()
        (old,) = (address for address, held in owners.items() if HERE in held)
        new = next(address for address in owners if address != old)
        moved = owners | {old: [p for p in owners[old] if p != HERE], new: [*owners[new], HERE]}

        async def told() -> object:
            return moved

        # The servers themselves say nothing: no slot has really moved.
        with monkeypatch.context() as patch:
            patch.setattr(line.l2, "owners", told)
            await until(lambda: HERE not in line.ear.trusted)
        await line.trusted()
        assert HERE in line.ear.partitions


async def test_race_13_a_server_that_hangs_ends_the_trust(valkey: ValkeyServer, namespace: str) -> None:
    async with open_line(valkey.address, namespace, redis_timeout=0.25) as line:
        valkey.pause()
        try:
            await until(lambda: not line.ear.trusted)
        finally:
            valkey.resume()
        await line.trusted()
        assert line.ear.order[0] == "distrust"
        assert line.ear.order[-2:] == ["drop", "trust"]
        await line.change("a", 1)
        await line.heard("a", 1)


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds all heartbeats from the moment it is closed, with what the server said in their hands."""
    read_state, gate = Feed._read_state, Gate()

    async def held(feed: Feed) -> object:
        state = await read_state(feed)
        await gate.passed()
        return state

    monkeypatch.setattr(Feed, "_read_state", held)
    return gate


async def test_race_13_trust_ends_in_time_though_nobody_notices_that_a_heartbeat_hangs(
    valkey: ValkeyServer, namespace: str, heartbeats: Gate
) -> None:
    clock = ManualClock()
    async with open_line(valkey.address, namespace, trusted=False) as line:
        line.freshness_lease.clock = clock.now
        await line.trusted()
        heartbeats.close()
        await heartbeats.reached()
        line.ear.forget()
        clock.advance(staleness_bound(5.0) - 0.1)
        line.freshness_lease.check()
        assert line.coherence.is_trusted()
        clock.advance(2.1)
        line.freshness_lease.check()
        assert (line.ear.trusted, line.ear.order) == (set(), ["distrust since 2 s"])
        assert not line.coherence.is_trusted()
        # The heartbeat that was good after all is too late: what was missed meanwhile is dropped first.
        heartbeats.open()
        await line.trusted()
        assert line.ear.order == ["distrust since 2 s", "drop", "trust"]


async def test_good_heartbeats_prolong_the_trust(line: Line) -> None:
    until_then = line.freshness_lease.until
    await until(lambda: line.freshness_lease.until > until_then)
    assert line.freshness_lease.until <= line.freshness_lease.clock() + staleness_bound(5.0)


async def test_race_24_a_restarted_server_is_listened_to_anew(valkey: ValkeyServer, namespace: str) -> None:
    async with open_line(valkey.address, namespace) as line:
        await line.change("a", 1)
        await line.heard("a", 1)
        line.ear.forget()
        await valkey.restart()
        await line.dropped()
        await line.trusted()
        await line.change("a", 2)
        await line.heard("a", 2)


async def subscribers(server: ValkeyServer) -> set[str]:
    async with server.client() as client:
        return {found["id"] for found in await client.client_list(_type="pubsub")}


async def test_race_22_a_subscriber_that_was_too_slow_drops_what_it_missed(
    valkey: ValkeyServer, namespace: str, heartbeats: Gate
) -> None:
    async with open_line(valkey.address, namespace) as line:
        # So that the counters, which tell of what was missed, too, are not looked at.
        heartbeats.close()
        await heartbeats.reached()
        before = await subscribers(valkey)
        elsewhere = line.names.channel((HERE + 1) % PARTITIONS)
        # While this loop does not read, more comes than the server keeps for it.
        with redis.Redis(port=valkey.port) as client:
            client.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
            while before & {found["id"] for found in client.client_list(_type="pubsub")}:
                pipeline = client.pipeline(transaction=False)
                for _ in range(500):
                    pipeline.spublish(elsewhere, b"0 0 other " + b"x" * 10_000)
                pipeline.execute()
            client.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")
            # Nobody hears this one.
            assert client.incr(line.names.counter(HERE)) == 1
        await until(lambda: "distrust" in line.ear.order)
        heartbeats.open()
        await line.trusted()
        assert line.ear.order == ["distrust", "drop", "trust"]
        assert before
        assert not before & await subscribers(valkey)
        await line.change("a", 2)
        await line.heard("a", 2)


# With a memory behind it


@contextlib.asynccontextmanager
async def open_sidecar(nodes: str, namespace: str, case: Case | None = None) -> AsyncIterator[Case]:
    more = {"rows": case.rows, "clock": case.clock} if case else {}
    async with open_case(nodes, namespace, **more) as opened:
        opened.freshness_lease(trusted=False)
        connection = opened.l2._connection
        coherence = InvalidationSubscriber(
            opened.l2,
            connection,
            KeyNames(namespace),
            timeout=5.0,
            freshness_lease=opened.trusts,
            followers={"product": opened.dataset},
            on_message=lambda: None,
        )
        coherence.start()
        try:
            await until(coherence.is_trusted)
            yield opened
        finally:
            await coherence.stop()


@pytest.mark.parametrize("value", [b"new", None])
async def test_a_change_through_one_sidecar_is_seen_through_another(nodes: str, namespace: str, value: bytes | None) -> None:
    async with open_sidecar(nodes, namespace) as a, open_sidecar(nodes, namespace, a) as b:
        await a.write("a", 1, b"old")
        assert await b.get("a") == (b"old", Source.L2)
        assert await b.get("a") == (b"old", Source.L1)
        await a.write("a", 2, value)
        await until(lambda: b.l1.get("a") is None)
        assert await b.get("a") == (value, Source.L2)
        assert await b.get("a") == (value, Source.L1)


async def test_race_01_a_reader_that_fills_redis_before_the_writer_does_not_silence_it(nodes: str, namespace: str) -> None:
    async with open_sidecar(nodes, namespace) as a, open_sidecar(nodes, namespace, a) as b:
        await a.write("a", 1, b"old")
        await b.get("a")
        a.rows.commit("a", 2, b"new")
        await a.l2.drop("product", ["other"])
        await fill(a.l2, "product", {"a": Record(2, a.clock.now(), b"new")}, ttl=60)
        await a.dataset.committed("a", 2, b"new")
        await until(lambda: b.l1.get("a") is None)
        assert (await b.get("a"))[0] == b"new"


@pytest.mark.parametrize(("late", "source"), [(1.0, Source.L1), (60.0, Source.L2)])
async def test_race_13_a_reader_is_not_told_that_memory_is_fresh_when_no_heartbeat_came_in_time(
    nodes: str, namespace: str, heartbeats: Gate, late: float, source: Source
) -> None:
    async with open_sidecar(nodes, namespace) as case:
        await case.write("a", 1, b"sofa")
        await case.get("a")
        heartbeats.close()
        await until(lambda: heartbeats.waiting == 3)
        assert case.dataset.hit("a") is not None
        # As if this process had been stopped for so long.
        now = case.trusts.until + late
        case.trusts.clock = lambda: now
        assert case.dataset.hit("a") is None
        answer = await case.answer("a")
        assert (answer.source, answer.stale) == (source, source is Source.L1)
        assert case.dataset.peek("a") is None


async def test_race_13_nor_does_it_join_a_load_from_before(nodes: str, namespace: str, heartbeats: Gate) -> None:
    async with open_sidecar(nodes, namespace) as case:
        heartbeats.close()
        await until(lambda: heartbeats.waiting == 3)
        case.rows.commit("a", 1, b"old")
        case.rows.after.close()
        before = reading(case)
        await case.rows.after.reached()
        case.rows.commit("a", 2, b"new")
        now = case.trusts.until
        case.trusts.clock = lambda: now
        after = reading(case)
        await until(lambda: len(case.rows.calls) == 2)
        case.rows.after.open()
        assert ((await before).value, (await after).value) == (b"old", b"new")
