"""A committed reservation of a user as a purchase: if the policy says so, and once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import EventBacklogFull, Failure, Tier, TierFailed
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.services.purchases import Purchases
from cache_sidecar.v1.inventory_pb2 import Reservation
from tests.support.customers import new_request, new_user
from tests.support.databases import run
from tests.support.launch import in_process, settings_for
from tests.support.recorder import moving, open_streams
from tests.support.stockroom import Stockroom
from tests.support.until import until


@pytest.fixture
def settings(valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    return settings_for(valkey.address, database, namespace, redis_mode="single", event_replicas=0, redis_timeout=5.0)


def recording() -> policy.Policy:
    """The built-in policy, with commits as purchases."""
    return policy.parse("[inventory]\ncommits_are_purchases = true", origin="test", base=policy.default())


async def move_all(settings: Settings) -> None:
    async with moving(settings), open_streams(settings) as streams:

        async def is_empty() -> bool:
            return not (await streams.inspect()).waiting

        await until(is_empty)


async def events_in(database: str) -> list[Any]:
    query = "SELECT event_type, user_id, products, event_time FROM cache_sidecar.user_events ORDER BY position"
    return await run(database, query)


async def test_a_commit_is_a_purchase_once_however_often_it_is_repeated(settings: Settings, database: str) -> None:
    user, request = new_user(), new_request()
    async with (
        in_process(settings, trusted=False, default_policy=recording()) as one,
        in_process(settings, trusted=False, default_policy=recording()) as other,
    ):
        stockroom, elsewhere = Stockroom(one.channel), Stockroom(other.channel)
        await stockroom.set("sofa", 10)
        await stockroom.set("lamp", 10)
        held = await stockroom.reserve({"sofa": 2, "lamp": 1}, user_id=user)
        nobody = await stockroom.reserve({"sofa": 1})
        # As an erasure of the user leaves it.
        await run(database, "UPDATE cache_sidecar.reservations SET user_id = '' WHERE user_id <> %s", [user])
        done = await stockroom.commit(held.reservation_id, request_id=request)
        await elsewhere.commit(held.reservation_id, request_id=request)
        await elsewhere.commit(held.reservation_id, request_id=new_request())
        await stockroom.commit(nobody.reservation_id, request_id=new_request())
        await move_all(settings)
    ((kind, user_id, products, time),) = await events_in(database)
    assert (kind, user_id) == ("purchase-complete", user)
    assert products == [{"product_id": "lamp", "quantity": 1}, {"product_id": "sofa", "quantity": 2}]
    assert time.timestamp() == pytest.approx(done.end_time.ToMilliseconds() / 1000, abs=0.001)


async def test_by_default_a_commit_is_none_and_neither_is_a_release(settings: Settings, database: str) -> None:
    async with in_process(settings, trusted=False) as sidecar:
        stockroom = Stockroom(sidecar.channel)
        await stockroom.set("sofa", 10)
        held = await stockroom.reserve({"sofa": 2}, user_id=new_user())
        await stockroom.commit(held.reservation_id, request_id=new_request())
    async with in_process(settings, trusted=False, default_policy=recording()) as sidecar:
        stockroom = Stockroom(sidecar.channel)
        held = await stockroom.reserve({"sofa": 2}, user_id=new_user())
        await stockroom.release(held.reservation_id, request_id=new_request())
    await move_all(settings)
    assert await events_in(database) == []


@pytest.mark.parametrize("failure", [EventBacklogFull(), TierFailed(Tier.STORE, Failure.UNREACHABLE)])
async def test_a_commit_does_not_fail_with_its_event(failure: Exception) -> None:
    async def refuse(_events: Sequence[bytes]) -> None:
        raise failure

    purchases = Purchases(refuse, is_on=lambda: True, patience=60.0)
    await purchases.record(Reservation(reservation_id="r", user_id="ann"))
    await purchases.close()


async def test_a_commit_does_not_wait_longer_than_its_patience_and_the_event_is_recorded_later() -> None:
    may_end, recorded = asyncio.Event(), []

    async def hang(events: Sequence[bytes]) -> None:
        await may_end.wait()
        recorded.extend(events)

    purchases = Purchases(hang, is_on=lambda: True, patience=0.0)
    await purchases.record(Reservation(reservation_id="r", user_id="ann"))
    assert not recorded
    may_end.set()
    await purchases.close()
    assert len(recorded) == 1
