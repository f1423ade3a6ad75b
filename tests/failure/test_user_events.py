"""Acknowledged events while servers and processes die: none is lost, and none is in PostgreSQL twice."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from cache_sidecar import user_data
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.store.migrate import migrate
from tests.event_load.run import measure
from tests.support import inside
from tests.support.customers import new_user
from tests.support.databases import run
from tests.support.engine_params import ENGINES
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.recorder import Recorder, event, ids_in, leadership_of, moving, open_streams, relay_of
from tests.support.until import until


@pytest.fixture(scope="module")
async def cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    own = ValkeyCluster(processes, processes.state.path / "valkey-events", choose_ports(6))
    await own.start()
    for node in own.nodes:
        async with node.client() as client:
            await client.config_set("cluster-require-full-coverage", "no")
    yield own
    await own.stop()


@pytest.fixture
async def healthy(cluster: ValkeyCluster) -> AsyncIterator[ValkeyCluster]:
    yield cluster
    await cluster.heal()


@pytest.fixture
def settings(healthy: ValkeyCluster, database: str, namespace: str) -> Settings:
    return settings_for(",".join(healthy.addresses), database, namespace, redis_timeout=0.5)


async def test_events_that_no_replica_has_are_in_postgresql_first(
    settings: Settings, healthy: ValkeyCluster, database: str
) -> None:
    user, primaries = new_user(), await healthy.primaries()
    async with in_process(settings, trusted=False) as sidecar:
        recorder = Recorder(sidecar.channel)
        first = (await recorder.write(event(user))).event_ids
        assert not await ids_in(database, user)
        for node in healthy.nodes:
            if node not in primaries:
                node.pause()
        written = [(await recorder.write(event(user))).event_ids[0] for _ in range(6)]
        assert await ids_in(database, user) == written
        await healthy.heal()
        async with moving(settings):
            await until(lambda: _is_empty(settings))
    assert await ids_in(database, user) == [*first, *written]


async def test_a_primary_that_dies_loses_no_event_that_it_acknowledged(
    settings: Settings, healthy: ValkeyCluster, database: str
) -> None:
    user = new_user()
    async with in_process(settings, trusted=False) as sidecar:
        recorder = Recorder(sidecar.channel)
        written = [(await recorder.write(event(user))).event_ids[0] for _ in range(60)]
        assert inside.events_of(sidecar.app).counts.direct == 0
    for node in await healthy.primaries():
        if node is not healthy.nodes[0]:
            node.kill()
            await healthy.wait_ok()
    async with moving(settings):
        await until(lambda: _is_empty(settings))
    assert sorted(await ids_in(database, user)) == sorted(written)


async def test_a_shard_without_nodes_holds_up_no_other(settings: Settings, healthy: ValkeyCluster, database: str) -> None:
    """Nor do its events count as moved: an erasure waits for them."""
    user, victim = new_user(), (await healthy.primaries())[0]
    async with in_process(settings, trusted=False) as sidecar, victim.client() as client:
        recorder = Recorder(sidecar.channel)
        written = [(await recorder.write(event(user))).event_ids[0] for _ in range(32)]
        replicas = {one["port"] for name, one in (await client.info("replication")).items() if name.startswith("slave")}
        for node in healthy.nodes:
            if node is victim or node.port in replicas:
                node.pause()
        async with open_streams(settings) as streams:
            relay = relay_of(settings, streams)
            task = asyncio.create_task(relay.run(leadership_of(settings)))
            await until(lambda: ids_in(database, user))
            report = await user_data.erase(settings, user, specs=(), published_within=0.0)
            # Nor does a relay publish here that the caches are to drop the user's recommendations.
            assert report.unpublished == ["user events: region 'local'", "catalog, user, analytics: no relay has ever run"]
            await until(lambda: inside.marks_of(relay))
            # When the second is moved, the turn that moved the first is over: the mark could have been passed.
            for other in (new_user(), new_user()):
                await until(partial(_is_moved, recorder, settings, other))
            assert await run(database, "SELECT mark FROM cache_sidecar.event_relays") == [(0,)]
            await healthy.heal()
            await until(lambda: _is_empty(settings))

            async def is_confirmed() -> bool:
                return not await run(database, "SELECT 1 FROM cache_sidecar.event_marks")

            await until(is_confirmed)
            await cancel_and_wait(task)
    assert len(written) == 32
    assert await ids_in(database, user) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.timeout(400)
async def test_no_event_is_lost_or_doubled_while_everything_is_killed_by_turns(
    healthy: ValkeyCluster, processes: Processes, choose_ports: ChoosePorts, tmp_path: Path, engine: str
) -> None:
    own = Postgres(processes, processes.state.path / f"postgres-events-{engine}", choose_ports(1)[0], settings={"fsync": "off"})
    await own.start()
    for role in ROLES:
        await migrate(own.dsn(), role)
    result = await measure(healthy, own, tmp_path, seconds=5, rate=300, batch=30, kill_every=0.5, kills=3, engine=engine)
    await own.stop()
    assert (result.lost, result.doubled) == (0, 0)
    assert result.kills == ["sidecar", "relay", "primary"]
    assert result.written >= 1_500


async def _is_moved(recorder: Recorder, settings: Settings, user: str) -> bool:
    """Writes an event, to any of the shards, and returns whether one of the user's was moved."""
    await recorder.write(event(user))
    return bool(await ids_in(settings.database("analytics"), user))


async def _is_empty(settings: Settings) -> bool:
    async with open_streams(settings) as streams:
        return not (await streams.inspect()).waiting
