"""When sessions are over: the sliding expiry, its end, what PostgreSQL hears of use, and what a loss of Redis leaves."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from cache_sidecar.config import policy
from cache_sidecar.relay.sessions import ExpiredSessions
from cache_sidecar.services.session import hash_of
from cache_sidecar.store.database import Database
from cache_sidecar.store.session import SessionStore
from cache_sidecar.tiers.resilience.guard import Guard, Tier
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import L2, STORE, Customer, item, new_request
from tests.support.session_uses import DAY, HOUR, MINUTE, flush, is_over, query, stored
from tests.support.shop import refused

Open = Callable[[], contextlib.AbstractAsyncContextManager[Customer]]


async def test_use_puts_off_the_expiry(customer: Customer, clock: ManualClock) -> None:
    id = await customer.create()
    for use in (customer.touch, customer.session, customer.touch):
        clock.advance(29 * MINUTE)
        await use(id)
    assert await customer.touch(id) == pytest.approx(clock.now() + 30 * MINUTE, abs=0.001)
    clock.advance(30 * MINUTE)
    assert await is_over(customer, id)


async def test_a_session_is_over_at_its_expiry_on_every_sidecar(open_customer: Open, clock: ManualClock) -> None:
    async with open_customer() as first, open_customer() as second:
        id = await first.create()
        clock.advance(30 * MINUTE - 0.01)
        assert not await is_over(second, id)
        clock.advance(30 * MINUTE - 0.01)
        assert not await is_over(first, id)
        clock.advance(30 * MINUTE)
        for customer in (first, second):
            assert await is_over(customer, id)
            update = pb.UpdateSessionRequest(session=Session(session_id=id, user_id="u"))
            assert (await refused(customer.sessions.UpdateSession(update))).reason == "NOT_FOUND"
            rotate = pb.RotateSessionRequest(session_id=id)
            assert (await refused(customer.sessions.RotateSession(rotate))).reason == "NOT_FOUND"


async def test_an_update_and_a_rotation_put_off_the_expiry(customer: Customer, clock: ManualClock) -> None:
    id = await customer.create()
    clock.advance(20 * MINUTE)
    await customer.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, user_id="u")))
    clock.advance(20 * MINUTE)
    id = (await customer.sessions.RotateSession(pb.RotateSessionRequest(session_id=id))).session_id
    clock.advance(20 * MINUTE)
    assert not await is_over(customer, id)


async def test_no_use_puts_off_the_end(customer: Customer, database: str, clock: ManualClock) -> None:
    id = await customer.create()
    end = clock.now() + 30 * DAY
    await query(database, "UPDATE cache_sidecar.sessions SET use_time = end_time")  # as if it was used all the time
    await customer.forget("session")
    clock.advance(30 * DAY - 10 * MINUTE)
    assert await customer.touch(id) == pytest.approx(end, abs=0.001)
    id = (await customer.sessions.RotateSession(pb.RotateSessionRequest(session_id=id))).session_id
    assert await customer.touch(id) == pytest.approx(end, abs=0.001)
    clock.advance(10 * MINUTE)
    assert await is_over(customer, id)
    await customer.forget("session")
    assert await is_over(customer, id)


async def test_postgresql_hears_of_use_once_in_five_minutes(open_customer: Open, database: str, clock: ManualClock) -> None:
    """However many sidecars are used in turn. Rows that are written are counted by the system column that says by whom."""
    async with open_customer() as first, open_customer() as second:
        id = await first.create()
        writes = {await _writer(database, id)}
        for minute in range(60):
            for customer in (first, second):
                for _ in range(3):
                    await customer.touch(id)
                await flush(customer)
            writes.add(await _writer(database, id))
            assert clock.now() + 30 * MINUTE - await stored(database, id) <= 5 * MINUTE, f"after {minute} minutes"
            clock.advance(MINUTE)
        assert 11 <= len(writes) - 1 <= 12


async def _writer(dsn: str, session_id: str) -> int:
    rows = await query(
        dsn, "SELECT xmin::text::bigint FROM cache_sidecar.sessions WHERE session_hash = %s", hash_of(session_id)
    )
    return int(rows[0][0])


async def test_a_use_within_the_window_is_told_when_that_is_over(customer: Customer, database: str, clock: ManualClock) -> None:
    id = await customer.create()
    clock.advance(MINUTE)
    until = await customer.touch(id)
    await flush(customer)
    assert await stored(database, id) < until
    clock.advance(5 * MINUTE)
    await flush(customer)
    assert await stored(database, id) == pytest.approx(until, abs=0.001)


async def test_a_sidecar_that_stops_tells_of_every_use(open_customer: Open, database: str, clock: ManualClock) -> None:
    async with open_customer() as customer:
        ids = [await customer.create() for _ in range(3)]
        clock.advance(MINUTE)
        untils = [await customer.touch(id) for id in ids]
        assert [await stored(database, id) for id in ids] != untils
    assert [await stored(database, id) for id in ids] == [pytest.approx(until, abs=0.001) for until in untils]


async def test_use_makes_no_version_and_no_event(customer: Customer, database: str, clock: ManualClock) -> None:
    id = await customer.create()
    before = await query(database, "SELECT max(version), count(*) FROM cache_sidecar.outbox")
    clock.advance(10 * MINUTE)
    await customer.touch(id)
    await flush(customer)
    assert await stored(database, id) > clock.now() + 29 * MINUTE
    assert await query(database, "SELECT max(version), count(*) FROM cache_sidecar.outbox") == before


async def test_every_valid_session_survives_the_loss_of_redis(open_customer: Open, database: str, clock: ManualClock) -> None:
    """Also one whose last use, 4 minutes after PostgreSQL last heard of one, nobody told it: its sidecar was killed."""
    async with open_customer() as first, open_customer() as second:
        id = await first.create()
        clock.advance(4 * MINUTE + 59)
        until = await first.touch(id)
        assert await stored(database, id) < until - 4 * MINUTE
        await second.forget("session")
        clock.advance(until - clock.now() - 0.01)
        reply = await second.session(id)
        assert reply.cache.source == STORE
        assert (await second.session(id)).cache.source == L2


async def test_a_session_that_is_over_stays_over_when_redis_is_lost(open_customer: Open, clock: ManualClock) -> None:
    async with open_customer() as first, open_customer() as second:
        expired, ended, left = [await first.create() for _ in range(3)]
        await first.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=ended))
        await second.forget("session")
        assert await is_over(second, ended)
        clock.advance(35 * MINUTE)
        await second.forget("session")
        for id in (expired, ended, left):
            assert await is_over(second, id)
            assert await is_over(first, id)


async def test_what_redis_knows_to_be_over_postgresql_does_not_bring_back(customer: Customer, clock: ManualClock) -> None:
    """Between the expiry and the 5 minutes that PostgreSQL may be behind, it alone would say that the session goes on."""
    id = await customer.create()
    clock.advance(30 * MINUTE + 1)
    for _ in range(5):
        assert await is_over(customer, id)
        clock.advance(MINUTE - 0.1)
    clock.advance(MINUTE)
    await customer.forget("session")
    assert await is_over(customer, id)


async def test_a_creation_is_not_repeated_for_a_session_that_expired(customer: Customer, clock: ManualClock) -> None:
    same = new_request()
    await customer.create("", same)
    clock.advance(2 * 3600)
    assert (await refused(customer.create("", same))).reason == "NOT_FOUND"


async def test_expired_sessions_are_not_listed(customer: Customer, clock: ManualClock) -> None:
    await customer.create("ann", n="old")
    clock.advance(36 * MINUTE)
    await customer.create("ann", n="new")
    reply = await customer.sessions.ListUserSessions(pb.ListUserSessionsRequest(user_id="ann"))
    assert [session.attributes["n"] for session in reply.sessions] == ["new"]


async def test_a_zombie_in_redis_dies_at_its_next_told_use(customer: Customer, database: str, clock: ManualClock) -> None:
    """A failover may bring back a record whose session was ended: PostgreSQL is asked every 5 minutes."""
    id = await customer.create()
    # Ended behind the back of every cache, as far as this Redis knows.
    await query(database, "ALTER TABLE cache_sidecar.sessions DISABLE TRIGGER USER")
    await query(database, "UPDATE cache_sidecar.sessions SET delete_time = now(), version = version + 1000")
    clock.advance(MINUTE)
    assert not await is_over(customer, id)
    clock.advance(5 * MINUTE)
    assert not await is_over(customer, id)
    await flush(customer)
    assert await is_over(customer, id)
    await query(database, "ALTER TABLE cache_sidecar.sessions ENABLE TRIGGER USER")
    purged = await customer.create()
    await query(database, "DELETE FROM cache_sidecar.sessions")
    clock.advance(6 * MINUTE)
    assert not await is_over(customer, purged)
    await flush(customer)
    assert await is_over(customer, purged)


async def test_rows_of_sessions_that_are_over_are_purged_and_nobody_hears_of_it(
    customer: Customer, database: str, clock: ManualClock
) -> None:
    ended = await customer.create()
    await customer.create()
    await customer.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=ended))
    events = await query(database, "SELECT count(*) FROM cache_sidecar.outbox")
    guard = Guard(Tier.STORE, timeout=5, max_running=2, max_waiting=8)
    store = Database(database, size=1, timeout=5, prepare=True, guard=guard)
    await store.open()
    purge = ExpiredSessions(SessionStore(store), policy=lambda: policy.default()["session"], clock=clock)
    clock.advance(30 * MINUTE + 3600 - 1)
    assert await purge.step() == 0
    clock.advance(2)
    assert await purge.step() == 1
    assert await query(database, "SELECT session_hash FROM cache_sidecar.sessions") == [(hash_of(ended),)]
    clock.advance(DAY)
    assert await purge.step() == 1
    assert await query(database, "SELECT count(*) FROM cache_sidecar.outbox") == events
    await store.close()


async def test_many_rows_are_purged_in_batches(database: str, clock: ManualClock) -> None:
    long_ago = datetime.fromtimestamp(clock.now() - 2 * DAY, UTC)
    await query(
        database,
        """INSERT INTO cache_sidecar.sessions (session_hash, use_time, end_time)
           SELECT encode(sha256(n::text::bytea), 'hex'), %s, %s FROM generate_series(1, 2500) AS n""",
        long_ago,
        long_ago,
    )
    guard = Guard(Tier.STORE, timeout=5, max_running=2, max_waiting=8)
    store = Database(database, size=1, timeout=5, prepare=True, guard=guard)
    await store.open()
    purge = ExpiredSessions(SessionStore(store), policy=lambda: policy.default()["session"], clock=clock)
    assert await purge.step() == 2500
    assert purge.purged == 2500
    await store.close()


def change_ttl(*customers: Customer, **ttls: float) -> None:
    """Changes how long sessions or carts last, as a new policy file does."""
    for customer in customers:
        for dataset, ttl in ttls.items():
            assert customer.sidecar.app is not None
            inside.policy_of(customer.sidecar.app).override(dataset, {"l2_ttl": ttl})


@pytest.mark.parametrize("is_in_redis", [True, False])
async def test_a_shorter_time_counts_for_sessions_that_are_there(
    open_customer: Open, clock: ManualClock, is_in_redis: bool
) -> None:
    async with open_customer() as first, open_customer() as second:
        idle, used = [await first.create("ann", n=n) for n in ("idle", "used")]
        clock.advance(7 * MINUTE)
        await second.touch(used)
        for customer in (first, second):
            await flush(customer)
        clock.advance(7 * MINUTE)
        new = await second.create("ann", n="new")
        change_ttl(first, second, session=10 * MINUTE)
        if not is_in_redis:
            await first.forget("session")
        reply = await first.sessions.ListUserSessions(pb.ListUserSessionsRequest(user_id="ann"))
        assert {session.attributes["n"] for session in reply.sessions} == {"used", "new"}
        for customer in (first, second):
            assert await is_over(customer, idle)
            for id in (used, new):
                assert await customer.touch(id) == pytest.approx(clock.now() + 10 * MINUTE, abs=0.001)
        clock.advance(10 * MINUTE)
        assert await is_over(second, used)


@pytest.mark.parametrize("is_in_redis", [True, False])
async def test_a_longer_time_counts_for_sessions_that_are_there(
    open_customer: Open, database: str, clock: ManualClock, is_in_redis: bool
) -> None:
    async with open_customer() as first, open_customer() as second:
        id = await first.create()
        clock.advance(20 * MINUTE)
        change_ttl(first, second, session=60 * MINUTE)
        clock.advance(30 * MINUTE)
        if not is_in_redis:
            await first.forget("session")
        assert await second.touch(id) == pytest.approx(clock.now() + 60 * MINUTE, abs=0.001)
        clock.advance(60 * MINUTE)
        assert await is_over(first, id)


async def test_a_new_time_counts_for_carts_that_are_there(customer: Customer, clock: ManualClock) -> None:
    await customer.replace("ann", item("mug"))
    clock.advance(HOUR)
    assert (await customer.read("ann")).cache.source == L2
    clock.advance(2 * HOUR)
    change_ttl(customer, cart=2 * HOUR)
    reply = await customer.read("ann")
    assert (reply.cache.source, reply.cart.items[0].product_id) == (STORE, "mug")
    clock.advance(HOUR)
    change_ttl(customer, cart=4 * HOUR)
    clock.advance(3 * HOUR - 1)
    assert (await customer.read("ann")).cache.source == L2


async def test_a_session_deleted_in_plain_sql_is_told_to_every_cache(database: str, customer: Customer) -> None:
    """The outbox hears of it, and so will Redis from the relay."""
    id = await customer.create()
    await query(database, "DELETE FROM cache_sidecar.sessions")
    rows = await query(database, "SELECT dataset, id, kind FROM cache_sidecar.outbox ORDER BY version DESC LIMIT 1")
    assert rows == [("session", hash_of(id), "deleted")]
