"""UserEventService as its callers see it. Nothing moves events to PostgreSQL here: see integration/test_user_events.py."""

import time
from typing import Any

import pytest
from google.type.money_pb2 import Money
from grpc import StatusCode
from grpc.aio import AioRpcError

from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1 import user_event_service_pb2 as pb
from cache_sidecar.v1.user_event_pb2 import UserEvent
from tests.support import inside
from tests.support.customers import money, new_user
from tests.support.recorder import ADD, BUY, HOME, REMOVE, SEARCH, VIEW, Recorder, event, ids_in, new_event_id, product
from tests.support.shop import Open, Shop, refusal, refused

DAY = 86_400.0


@pytest.fixture
def recorder(shop: Shop) -> Recorder:
    return Recorder(shop.channel)


async def stats_of(shop: Shop) -> admin_service_pb2.UserEventStats:
    """Returns what the sidecar counts of events, after it has looked at the backlog."""
    await inside.events_of(shop.app).inspect()
    reply: admin_service_pb2.GetStatsResponse = await shop.admin.GetStats(admin_service_pb2.GetStatsRequest())
    return reply.user_events


async def test_each_event_gets_an_id_with_its_time(recorder: Recorder) -> None:
    user, now = new_user(), time.time()
    given = new_event_id(now - 60).upper()
    reply = await recorder.write(event(user), event(user, at=now - 3600), event(user, event_id=given))
    times = [int(id.replace("-", "")[:12], 16) / 1000 for id in reply.event_ids]
    assert times == pytest.approx([time.time(), now - 3600, now - 60], abs=30)
    assert reply.event_ids[2] == given.lower()
    assert not reply.refused_events


async def test_events_of_another_time_are_refused_and_the_others_written(recorder: Recorder, shop: Shop) -> None:
    user, now = new_user(), time.time()
    before = await stats_of(shop)
    reply = await recorder.write(
        event(user, at=now - 8 * DAY),
        event(user),
        event(user, event_id=new_event_id(now + 600)),
        event(user, at=now - 6 * DAY),
        event(user, at=now + 200),
    )
    assert [bool(id) for id in reply.event_ids] == [False, True, False, True, True]
    assert [(one.index, one.reason) for one in reply.refused_events] == [
        (0, pb.REFUSAL_REASON_TOO_OLD),
        (2, pb.REFUSAL_REASON_IN_FUTURE),
    ]
    assert reply.refused_events[0].message == "the event is 8.0 days old: event_max_age is 7 days"
    after = await stats_of(shop)
    assert (after.stored - before.stored, after.refused - before.refused) == (3, 2)


async def test_what_a_user_does_not_agree_to_is_not_written(recorder: Recorder, shop: Shop) -> None:
    user = new_user()
    before = await stats_of(shop)
    reply = await recorder.write(event(user, personalised=False), event(user, personalised=True))
    assert [bool(id) for id in reply.event_ids] == [False, True]
    after = await stats_of(shop)
    assert (after.stored - before.stored, after.opted_out - before.opted_out, after.backlog - before.backlog) == (1, 1, 1)
    assert after.HasField("backlog_age")


@pytest.mark.parametrize(
    ("invalid", "field"),
    [
        (event("u", 0), "event_type"),
        (event("u", 99), "event_type"),
        (event(""), "user_id"),
        (event("u\n"), "user_id"),
        (event("u", VIEW), ""),
        (event("u", VIEW, product("a"), product("b")), ""),
        (event("u", ADD), ""),
        (event("u", REMOVE), ""),
        (event("u", BUY), ""),
        (event("u", SEARCH), ""),
        (event("u", BUY, product("")), "products[0].product_id"),
        (event("u", BUY, product("a", -1)), "products[0].quantity"),
        (event("u", BUY, product("a", 1_000_001)), "products[0].quantity"),
        (event("u", BUY, product("a", 1, "1.00 eur")), "products[0].unit_price"),
        (event("u", value=Money(currency_code="EUR", units=-1)), "value"),
        (event("u", event_id="5e8c8d52-6bfb-4c7c-9d7e-2f1b7a1f6f10"), "event_id"),
        (event("u", event_id="x"), "event_id"),
        (event("u", event_id=new_event_id(time.time()), at=time.time() - 120), "event_id"),
        (event("u", at=-1.0), "event_time"),
        (event("u", event_time={"seconds": 2**40}), "event_time"),
        (event("u", event_time={"seconds": 1, "nanos": -1}), "event_time"),
        (event("u", event_time={"seconds": 1, "nanos": 10**9}), "event_time"),
        (event("u", variant="v" * 65), "variant"),
    ],
)
async def test_an_invalid_event_refuses_the_call(recorder: Recorder, invalid: UserEvent, field: str) -> None:
    found = await refused(recorder.write(event("u"), invalid))
    assert found.code is StatusCode.INVALID_ARGUMENT
    assert f"events[1].{field}".removesuffix(".") in found.violations


@pytest.mark.parametrize("count", [0, 501])
async def test_a_call_has_1_to_500_events(recorder: Recorder, count: int) -> None:
    assert (await refused(recorder.write(*[event("u")] * count))).violations.keys() == {"events"}
    assert len((await recorder.write(*[event("u")] * 500)).event_ids) == 500


async def test_a_stream_answers_each_request_in_order(recorder: Recorder) -> None:
    user = new_user()
    batches = [[event(user, event_id=new_event_id(time.time())) for _ in range(20)] for _ in range(5)]
    replies = [list(reply.event_ids) async for reply in recorder.stream(*batches)]
    assert replies == [[one.event_id for one in batch] for batch in batches]


async def test_what_a_stream_answered_before_an_invalid_request_counts(recorder: Recorder) -> None:
    replies = recorder.stream([event("u")], [event("")], [event("u")])
    assert len((await anext(replies)).event_ids) == 1
    assert (await refused(anext(replies))).code is StatusCode.INVALID_ARGUMENT


async def test_above_the_bound_events_are_refused_until_the_relay_has_moved_some(open_shop: Open) -> None:
    async with open_shop(event_backlog=1000) as shop:
        recorder, accepted = Recorder(shop.channel), 0
        while True:
            try:
                accepted += len((await recorder.write(*[event("u")] * 20)).event_ids)
            except AioRpcError as error:
                found = refusal(error)
                break
        assert (found.code, found.reason) == (StatusCode.RESOURCE_EXHAUSTED, "EVENT_BACKLOG_FULL")
        assert found.retry_after == pytest.approx(2.0, abs=1.0)
        stats = await stats_of(shop)
        assert stats.backlog == stats.stored == accepted
        # One in three of the streams is tried first, and one on another node: some may have room.
        assert 500 <= accepted <= 1000


async def test_without_redis_events_are_in_postgresql_before_the_reply(open_shop: Open, database: str) -> None:
    user = new_user()
    async with open_shop(redis="127.0.0.1:1", trusted=False) as shop:
        recorder = Recorder(shop.channel)
        ids = (await recorder.write(event(user, BUY, product("a", 2, "9.99 EUR"), value=money("19.98 EUR")))).event_ids
        assert await ids_in(database, user) == list(ids)
        assert await recorder.purge(user) == 1
        assert await ids_in(database, user) == []
        assert inside.events_of(shop.app).counts.direct == 1


async def test_without_redis_and_postgresql_events_are_unavailable(open_shop: Open) -> None:
    async with open_shop(redis="127.0.0.1:1", postgres="postgresql://nobody@127.0.0.1:1/none", trusted=False) as shop:
        found = await refused(Recorder(shop.channel).write(event("u")))
        assert (found.code, found.reason) == (StatusCode.UNAVAILABLE, "TIER_UNAVAILABLE")
        assert found.retry_after


async def test_without_postgresql_redis_takes_events(open_shop: Open) -> None:
    async with open_shop(postgres="postgresql://nobody@127.0.0.1:1/none") as shop:
        assert (await Recorder(shop.channel).write(event("u", HOME))).event_ids[0]


async def test_a_user_without_events_can_be_purged(recorder: Recorder) -> None:
    assert await recorder.purge(new_user()) == 0
    request: Any = pb.PurgeUserEventsRequest()
    assert (await refused(recorder.calls.PurgeUserEvents(request))).violations.keys() == {"user_id"}
