"""A session of which Redis lost the last use: only PostgreSQL may say that it is over, and it is not asked too often."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.services.session import hash_of
from cache_sidecar.tiers.path import expired
from cache_sidecar.tiers.ports import Row
from cache_sidecar.tiers.redis import codec
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.cluster_proxies import line_to
from tests.support.customers import L2, STORE, Customer, item, lines
from tests.support.dataset_case import Direct
from tests.support.launch import in_process, settings_for
from tests.support.session_uses import MINUTE, flush, is_over, query, stored

TTL, WINDOW = 30 * MINUTE, 5 * MINUTE


async def lose_uses_since(customer: Customer, session_id: str, used: float, *, history: str | None = "deadbeef") -> None:
    """Does to a session in Redis what a failover does that loses its last uses; None for one that loses nothing else."""
    app = customer.sidecar.app
    assert app is not None
    l2 = inside.l2_of(app)
    id = hash_of(session_id)
    record = (await l2.read("session", [id]))[id]
    assert record.expiry is not None
    kept = record.expiry._replace(used=used, history=record.expiry.history if history is None else history)
    await Direct(l2).set(inside.names_of(l2).key("session", id), codec.encode(record._replace(expiry=kept)))


class Loads:
    """Counts how often sessions are loaded from PostgreSQL."""

    def __init__(self, customer: Customer) -> None:
        assert customer.sidecar.app is not None
        dataset = inside.dataset(customer.sidecar.app, "session")
        self._load = dataset.loader._load
        self.count = 0
        dataset.loader._load = self  # type: ignore[assignment]

    async def __call__(self, ids: Sequence[str]) -> Mapping[str, Row]:
        self.count += 1
        return await self._load(ids)


@pytest.mark.parametrize("call", ["get", "touch", "update", "rotate"])
async def test_a_session_in_use_is_found_though_redis_lost_its_uses(customer: Customer, clock: ManualClock, call: str) -> None:
    id, began = await customer.create(), clock.now()
    clock.advance(TTL - 10)
    await customer.touch(id)
    await flush(customer)
    clock.advance(14)
    await lose_uses_since(customer, id, began, history=None)
    if call == "get":
        assert (await customer.session(id)).cache.source == STORE
    elif call == "touch":
        await customer.touch(id)
    elif call == "update":
        await customer.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, user_id="u")))
    else:
        id = (await customer.sessions.RotateSession(pb.RotateSessionRequest(session_id=id))).session_id
    assert not await is_over(customer, id)


async def test_a_use_that_postgresql_had_not_heard_of_counts_when_a_failover_may_have_lost_it(
    customer: Customer, clock: ManualClock
) -> None:
    id, began = await customer.create(), clock.now()
    clock.advance(WINDOW - 1)
    await customer.touch(id)
    await lose_uses_since(customer, id, began)
    clock.advance(TTL - 1)
    assert not await is_over(customer, id)


async def test_without_a_failover_redis_decides_what_postgresql_cannot_know(customer: Customer, clock: ManualClock) -> None:
    id = await customer.create()
    clock.advance(WINDOW - 1)
    await customer.touch(id)
    clock.advance(TTL)
    assert await is_over(customer, id)


async def test_what_may_be_lost_is_over_when_it_could_not_go_on_any_more(customer: Customer, clock: ManualClock) -> None:
    id, began = await customer.create(), clock.now()
    await lose_uses_since(customer, id, began)
    clock.advance(TTL + WINDOW - 1)
    assert not await is_over(customer, id)
    other, began = await customer.create(), clock.now()
    await lose_uses_since(customer, other, began)
    clock.advance(TTL + WINDOW)
    assert await is_over(customer, other)


async def test_asking_for_what_is_over_or_was_never_there_does_not_flood_postgresql(
    customer: Customer, clock: ManualClock
) -> None:
    """One load per id in so many seconds, whoever asks how often."""
    ids = [await customer.create() for _ in range(20)] + [f"nobody's {number}" for number in range(20)]
    clock.advance(TTL + 1)
    loads = Loads(customer)
    for _ in range(25):
        for id in ids:
            assert await is_over(customer, id)
    assert loads.count == len(ids)
    clock.advance(expired.REMEMBER_FOR)
    for id in ids:
        assert await is_over(customer, id)
    assert loads.count == 2 * len(ids)


async def test_what_is_brought_back_is_found_at_once(customer: Customer, database: str, clock: ManualClock) -> None:
    """An import, or the shop's own SQL: its message ends what is remembered."""
    id = await customer.create()
    clock.advance(TTL + 1)
    assert await is_over(customer, id)
    now = datetime.fromtimestamp(clock.now(), UTC)
    await query(database, "UPDATE cache_sidecar.sessions SET use_time = %s", now)
    assert await is_over(customer, id)
    assert customer.sidecar.app is not None
    inside.dataset(customer.sidecar.app, "session").on_invalidate(hash_of(id), 0)
    assert not await is_over(customer, id)


async def test_a_use_during_a_cut_without_a_failover_counts(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, clock: ManualClock
) -> None:
    """Redis goes on with the same history, so that nothing there tells of uses that it did not count."""
    async with line_to(valkey_cluster.addresses) as line:
        nodes = ",".join(line.addresses)
        async with in_process(settings_for(nodes, database, namespace, redis_timeout=0.5), clock=clock) as sidecar:
            customer = Customer(sidecar)
            id = await customer.create()
            clock.advance(10)
            line.cut()
            # The first one may be on its way when the cut is noticed.
            for _ in range(2):
                clock.advance(60)
                assert (await customer.session(id)).cache.source == STORE
                await flush(customer)
            assert await stored(database, id) == pytest.approx(clock.now() + TTL, abs=0.001)


async def test_a_use_that_redis_counts_is_not_told_before_its_window(
    customer: Customer, database: str, clock: ManualClock
) -> None:
    id, began = await customer.create(), clock.now()
    clock.advance(60)
    assert (await customer.session(id)).cache.source == L2
    await flush(customer)
    assert await stored(database, id) == pytest.approx(began + TTL, abs=0.001)


async def test_a_cart_does_not_end_with_its_copy(customer: Customer, clock: ManualClock) -> None:
    await customer.add("ann", item("mug"))
    clock.advance(8 * 24 * 60 * MINUTE)
    assert lines(await customer.cart("ann")) == {"mug": 1}
