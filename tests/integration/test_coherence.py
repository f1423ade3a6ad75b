"""Hearing of changes made elsewhere, and knowing when some may have been missed. The numbers are those of the coherence
contract's list of races."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
import redis
from structlog.testing import capture_logs

from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.coherence import subscriber as module
from cache_sidecar.tiers.coherence.subscriber import Feed, InvalidationSubscriber, staleness_bound
from cache_sidecar.tiers.ports import PARTITIONS, Record, Source
from cache_sidecar.tiers.redis import reading as readings
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.reading import NodeReader
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.dataset_case import Case, fill, open_case, reading, redis_settings
from tests.support.gates import Gate
from tests.support.listening import HERE, Line, open_line
from tests.support.proxy import Proxy
from tests.support.until import until


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


async def test_the_counters_are_the_same_with_the_scripts_and_without(nodes: str, namespace: str) -> None:
    async with open_line(nodes, namespace) as line:
        feeds = list(inside.feeds_of(line.coherence).values())
        none = [await inside.read_state(feed) for feed in feeds]
        assert none == [await inside.read_state(feed) for feed in feeds]
        await line.change("a", 1)  # loads the functions
        counted = [await inside.read_state(feed) for feed in feeds]
        values = [await inside.read_state_without_script(feed) for feed in feeds]
        assert [[b"%d" % count for count in state.counters.values()] for state in counted] == [
            [value or b"0" for value in found.values] for found in values
        ]
        assert [state.history for state in counted] == [found.history for found in values]
        assert sum(sum(state.counters.values()) for state in counted) == 1


async def test_a_reading_is_shared_with_its_age_unless_a_fresh_one_is_asked_for(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "SHARED_MS", 60_000)
    async with open_line(nodes, namespace) as one, open_line(nodes, namespace) as other:
        mine, theirs = (next(feed for feed in inside.feeds_of(line.coherence).values() if HERE in feed.partitions)
                        for line in (one, other))  # fmt: skip
        await one.change("a", 1)
        made = await inside.read_state(mine, shared=True)
        await one.change("a", 2)
        for _ in range(2):  # found by the script, then by looking for it
            found = await inside.read_state(theirs, shared=True)
            assert found.counters == made.counters
            assert found.age > 0.0
        fresh = await inside.read_state(theirs)
        assert (fresh.counters[HERE], fresh.age) == (made.counters[HERE] + 1, 0.0)


async def test_a_shared_reading_that_a_clock_set_back_keeps_too_long_is_not_used(
    valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "SHARED_MS", 60_000)
    async with open_line(valkey.address, namespace) as line:
        await line.change("a", 1)  # loads the scripts
        (feed,) = inside.feeds_of(line.coherence).values()
        for _ in range(2):
            await inside.read_state(feed, shared=True)
            assert (await inside.read_state(feed, shared=True)).age > 0.0
            async with valkey.client() as client:
                (key,) = [key async for key in client.scan_iter(f"{namespace}:reading:*")]
                await client.pexpire(key, 120_000)
            assert (await inside.read_state(feed, shared=True)).age == 0.0


async def test_a_shared_reading_that_is_replaced_while_it_is_looked_for_is_not_taken_for_a_newer_one(
    valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the look's two commands, Redis may execute those of others in between."""
    monkeypatch.setattr(readings, "SHARED_MS", 60_000)
    async with open_line(valkey.address, namespace) as line, valkey.client() as client:
        await line.change("a", 1)  # loads the scripts
        names = KeyNames(namespace)
        await client.set(counter := f"{namespace}:counter", "1")
        place = names.reading(HERE, counter.encode())
        mine, theirs = (NodeReader(names, [counter], HERE) for _ in range(2))

        async def ask(commands: Sequence[tuple[object, ...]]) -> Sequence[object]:
            return [await client.execute_command(*command, NEVER_DECODE=True) for command in commands]

        async def ask_slowly(commands: Sequence[tuple[object, ...]]) -> Sequence[object]:
            first = await ask(commands[:1])
            await client.set(counter, "2")
            await client.unlink(place)
            await theirs.read(ask, shared=True)
            return [*first, *await ask(commands[1:])]

        await theirs.read(ask, shared=True)
        await mine.read(ask, shared=True)
        await client.pexpire(place, 30_000)
        found = await mine.read(ask_slowly, shared=True)
        assert found is not None
        reading, age = found
        assert reading.values == [b"2"] or age >= 30.0


async def test_a_node_that_answers_no_writes_is_asked_for_readings_that_are_not_shared(
    valkey: ValkeyServer, namespace: str
) -> None:
    async with open_line(valkey.address, namespace) as line, valkey.client() as client:
        await line.change("a", 1)  # loads the scripts
        await client.set(counter := f"{namespace}:counter", "1")
        reader, asked = NodeReader(KeyNames(namespace), [counter], HERE), []

        async def ask(commands: Sequence[tuple[object, ...]]) -> Sequence[object]:
            asked.append(commands)
            return [await client.execute_command(*command, NEVER_DECODE=True) for command in commands]

        async with asyncio.TaskGroup() as group:
            await client.client_pause(60_000, all=False)
            waits = group.create_task(reader.read(ask, shared=True))
            await until(lambda: asked)
            waits.cancel()
        found = await reader.read(ask, shared=True)
        assert found is not None
        assert found[0].values == [b"1"]
        await client.client_unpause()


async def test_race_13_the_lease_begins_when_a_shared_reading_was_made(
    valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is shared for longer than the lease lasts renews no trust, however often it is read."""
    monkeypatch.setattr(readings, "SHARED_MS", 60_000)
    async with open_line(valkey.address, namespace, redis_timeout=0.25) as line:
        await line.change("a", 1)  # loads the scripts
        await until(lambda: "distrust" in " ".join(line.ear.order))


async def test_what_was_received_after_a_shared_reading_was_made_is_no_counter_that_went_back(
    valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_state, states = inside.read_state_of(Feed), []
    async with open_line(valkey.address, namespace) as line:

        async def late(feed: Feed, **how: bool) -> object:
            states.append(await read_state(feed))
            if len(states) == 1:
                await line.change("a", 1)
                await line.heard("a", 1)
                return states[0]
            return states[0]._replace(age=0.05) if len(states) == 2 else states[-1]

        line.ear.forget()
        monkeypatch.setattr(Feed, inside.READ_STATE, late)
        await until(lambda: len(states) > 3)
        assert line.ear.order == []


async def test_race_20_nothing_is_counted_or_trusted_before_the_subscription_is_acknowledged(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged, read_state = inside.wait_until_subscribed_of(Feed), inside.read_state_of(Feed)
    gate, counted = Gate(), []

    async def held(feed: Feed, pubsub: object) -> None:
        await gate.passed()
        await acknowledged(feed, pubsub)

    async def noted(feed: Feed, **how: bool) -> object:
        counted.append(feed)
        return await read_state(feed, **how)

    monkeypatch.setattr(Feed, inside.WAIT_UNTIL_SUBSCRIBED, held)
    monkeypatch.setattr(Feed, inside.READ_STATE, noted)
    gate.close()
    async with open_line(nodes, namespace, trusted=False) as line:
        await until(lambda: gate.waiting == 3)
        # Others may be listening in this process, too.
        assert not set(counted) & set(inside.feeds_of(line.coherence).values())
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
    read_state, lost = inside.read_state_of(Feed), []

    async def fail_once(feed: Feed, **how: bool) -> object:
        if feed not in lost:
            lost.append(feed)
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return await read_state(feed, **how)

    monkeypatch.setattr(Feed, inside.READ_STATE, fail_once)
    await until(lambda: len(lost) == len(inside.feeds_of(line.coherence)) and "distrust" in line.ear.order)
    await line.trusted()


async def test_who_holds_what_is_asked_again_soon_when_a_feed_breaks(
    nodes: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 3600.0)
    monkeypatch.setattr(module, "TOPOLOGY_AGAIN", 0.02)
    async with open_line(nodes, namespace) as line:
        asked = monkeypatch_counter(line, monkeypatch)
        beats = len(asked)
        next(iter(inside.feeds_of(line.coherence).values())).on_expired(0.0)
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
    await line.l2.put_if_newer("cart", {"a": 5}, ttl=60)
    async with open_line(nodes, namespace + "x") as other:
        await other.change("a", 6)
    await line.change("a", 7)
    await line.heard("a", 7)
    assert line.ear.changes == [("a", 7)]
    assert line.ear.partitions == []


async def test_a_thousand_changes_are_heard_in_order_and_without_a_gap(line: Line) -> None:
    await line.l2.put_if_newer("product", {f"id{number}": number + 1 for number in range(1000)}, ttl=60)
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
    "message",
    [
        b"",
        b"x",
        b"1 2 3",
        b"x 1 product a",
        b"1 xyz product a",
        b"2 1 product \xff",
        b"9" * 5000,
        b"1 ffffffffffffffff product a",
        b"1 8000000000000000 product a",
        b"1 -000000000000001 product a",
        b"1 0x00000000000001 product a",
    ],
)
async def test_a_foreign_message_drops_the_partition_and_is_survived(line: Line, message: bytes) -> None:
    await line.command("SPUBLISH", line.names.channel(HERE), message)
    await line.dropped()
    await line.change("a", 1)
    await line.heard("a", 1)
    assert line.coherence.is_trusted()


async def test_a_listener_that_fails_costs_a_new_subscription_and_no_more(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_id: str, _version: int) -> None:
        monkeypatch.undo()
        raise OverflowError("of a version that no memory can hold")

    monkeypatch.setattr(line.ear, "on_invalidate", fail)
    with capture_logs() as log:
        await line.change("a", 1)
        await until(lambda: "distrust" in line.ear.order)
        await line.trusted()
    await line.change("a", 2)
    await line.heard("a", 2)
    assert [entry["event"] for entry in log if entry["log_level"] == "error"] == ["the subscription failed and is renewed"]


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


async def test_probe_messages_measure_how_long_an_invalidation_takes(valkey: ValkeyServer, namespace: str) -> None:
    async with open_line(valkey.address, namespace, redis_timeout=0.25) as line:
        await until(lambda: line.coherence.delay() is not None)
        line.ear.forget()
        valkey.pause()
        try:
            await until(lambda: (line.coherence.delay() or 0.0) > 1.0)
        finally:
            valkey.resume()
        await line.trusted()
        assert (line.coherence.delay() or 0.0) > 1.0, "in the last minute"
        assert line.ear.changes == [], "no listener is told of the messages"


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds all heartbeats from the moment it is closed, with what the server said in their hands."""
    read_state, gate = inside.read_state_of(Feed), Gate()

    async def held(feed: Feed, **how: bool) -> object:
        state = await read_state(feed, **how)
        await gate.passed()
        return state

    monkeypatch.setattr(Feed, inside.READ_STATE, held)
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
        connection = inside.connection_of(opened.l2)
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
        await a.dataset.publish({"a": a.dataset.record(2, b"new")})
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
