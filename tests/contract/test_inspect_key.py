"""InspectKey: where a key is, without changing that."""

from typing import Any

from grpc import StatusCode

from cache_sidecar.config import policy
from cache_sidecar.services.session import hash_of
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1 import session_service_pb2 as session_pb
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.clocks import ManualClock
from tests.support.shop import L2, Open, Shop, new_id, refused
from tests.support.stockroom import Stockroom
from tests.support.until import until

ABSENT, VALUE, NOT_FOUND, UNKNOWN = pb.KEY_STATE_ABSENT, pb.KEY_STATE_VALUE, pb.KEY_STATE_NOT_FOUND, pb.KEY_STATE_UNSPECIFIED


async def held(shop: Shop, id: str, dataset: str = "product") -> dict[str, pb.HeldKey]:
    reply = await shop.admin.InspectKey(pb.InspectKeyRequest(dataset=dataset, id=id))
    assert {row.key for row in reply.tiers} == {id}
    return {row.tier: row for row in reply.tiers}


async def test_each_tier_says_what_it_holds_and_how_old_it_is(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with (
        open_shop(clock=clock, policy_file=exact_policy) as first,
        open_shop(clock=clock, policy_file=exact_policy) as second,
    ):
        id = (await first.create()).product_id
        version = (await second.get(id)).cache.version
        clock.advance(150)
        rows = await held(second, id)
        assert [row.state for row in rows.values()] == [VALUE, VALUE, VALUE]
        assert {row.version for row in rows.values()} == {version}
        assert [rows[tier].age.seconds for tier in ("l1", "l2")] == [150, 150]
        assert not rows["store"].HasField("age")
        assert [row.served for row in rows.values()] == [True, True, True]
        assert all(row.bytes > 0 for row in rows.values())
        clock.advance(60)
        rows = await held(second, id)
        assert [row.served for row in rows.values()] == [False, True, True], "L1 serves nothing that is older than 200 s"
        assert rows["l1"].state in {VALUE, ABSENT}


async def test_looking_fills_and_counts_nothing(open_shop: Open) -> None:
    async with open_shop() as first, open_shop() as second:
        id = (await first.create()).product_id
        before = (await second.admin.GetStats(pb.GetStatsRequest(dataset="product"))).tiers
        for _ in range(2):
            assert [row.state for row in (await held(second, id)).values()] == [ABSENT, VALUE, VALUE]
            assert [row.state for row in (await held(second, "none")).values()] == [ABSENT, ABSENT, NOT_FOUND]
        assert list((await second.admin.GetStats(pb.GetStatsRequest(dataset="product"))).tiers) == list(before)
        assert await second.source(id) == L2


async def test_a_deletion_is_remembered_where_it_was_read(open_shop: Open) -> None:
    async with open_shop() as shop:
        id = (await shop.create()).product_id
        await shop.delete(id)
        await refused(shop.get(id))
        rows = await held(shop, id)
        assert [row.state for row in rows.values()] == [NOT_FOUND, NOT_FOUND, NOT_FOUND]
        assert rows["l1"].known_version == rows["l1"].version == rows["l2"].version > 0


async def test_an_invalidation_leaves_the_version_that_is_known(open_shop: Open) -> None:
    async with open_shop() as first, open_shop() as second:
        id = (await first.create()).product_id
        await second.get(id)
        await first.update(id, "title", title="another")
        await until(lambda: not second.remembers(id))
        rows = await held(second, id)
        assert (rows["l1"].state, rows["l1"].known_version) == (ABSENT, rows["store"].version)


async def test_what_the_policy_keeps_away_is_not_served(open_shop: Open) -> None:
    async with open_shop() as shop:
        id = (await shop.create()).product_id
        await shop.get(id)
        for change, served in (
            ({"shadow": True}, [False, False, True]),
            ({"shadow": False, "l2_enabled": False}, [True, False, True]),
        ):
            await shop.admin.UpdatePolicy(pb.UpdatePolicyRequest(policy=pb.DatasetPolicy(dataset="product", **change)))
            await shop.get(id)
            if not change["shadow"]:
                await shop.get(id)
            assert [row.served for row in (await held(shop, id)).values()] == served


async def test_each_bucket_of_a_product_s_stock_is_shown(shop: Shop) -> None:
    room, id = Stockroom(shop.channel), new_id()
    await room.set(id, 6, bucket_count=3)
    await room.numbers(id)
    rows = (await shop.admin.InspectKey(pb.InspectKeyRequest(dataset="inventory", id=id))).tiers
    assert len({row.key for row in rows}) == 3
    assert {row.state for row in rows if row.tier == "store"} == {VALUE}
    rows = (await shop.admin.InspectKey(pb.InspectKeyRequest(dataset="inventory", id=new_id()))).tiers
    assert [(row.tier, row.state) for row in rows] == [("l1", ABSENT), ("l2", ABSENT), ("store", NOT_FOUND)]


async def test_a_session_is_not_used_by_looking_at_it(open_shop: Open) -> None:
    clock, ttl = ManualClock(), policy.default()["session"].l2_ttl
    async with open_shop(clock=clock) as shop:
        sessions: Any = SessionServiceStub(shop.channel)
        id = (await sessions.CreateSession(session_pb.CreateSessionRequest(user_id="ann"))).session_id
        clock.advance(ttl - 10)
        rows = await held(shop, hash_of(id), "session")
        assert [row.state for row in rows.values()] == [ABSENT, VALUE, VALUE]
        assert rows["l2"].served
        clock.advance(20)
        assert not (await held(shop, hash_of(id), "session"))["l2"].served
        refusal = await refused(sessions.GetSession(session_pb.GetSessionRequest(session_id=id)))
        assert refusal.code == StatusCode.NOT_FOUND


async def test_a_tier_that_does_not_answer_says_why(open_shop: Open) -> None:
    async with open_shop(redis="127.0.0.1:1", trusted=False) as shop:
        id = (await shop.create()).product_id
        rows = await held(shop, id)
        assert (rows["l2"].state, rows["l2"].problem) == (UNKNOWN, "not reachable")
        assert (rows["store"].state, rows["store"].problem) == (VALUE, "")


async def test_what_does_not_exist_is_refused(shop: Shop) -> None:
    for request, field in (({"dataset": "carts", "id": "a"}, "dataset"), ({"dataset": "cart", "id": ""}, "id")):
        refusal = await refused(shop.admin.InspectKey(pb.InspectKeyRequest(**request)))
        assert (refusal.code, set(refusal.violations)) == (StatusCode.INVALID_ARGUMENT, {field})


async def test_an_id_that_no_text_of_postgresql_can_be_is_no_outage(shop: Shop) -> None:
    rows = await held(shop, "a\x00b", "cart")
    assert (rows["store"].state, bool(rows["store"].problem)) == (UNKNOWN, True)
    assert not [one for one in (await shop.admin.GetStats(pb.GetStatsRequest())).degradations if one.what == "postgresql"]
