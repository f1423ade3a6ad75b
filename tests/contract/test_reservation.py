"""Reserving stock, and what becomes of reservations."""

import asyncio
import random
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from cache_sidecar.services.reservation import MAX_PAGE
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import ReservationItem
from tests.support.shop import Open, new_id, refused
from tests.support.stockroom import COMMITTED, EXPIRED, HELD, RELEASED, Stockroom, expire, moment, query, request_id, reserving


async def test_a_reservation_holds_pieces_and_says_what(stock: Stockroom, other: Stockroom) -> None:
    ids = [new_id("b"), new_id("a")]
    for id in ids:
        await stock.set(id, 10)
    made = await stock.reserve({ids[0]: 3, ids[1]: 10}, user_id="u 1")
    assert (made.user_id, made.state) == ("u 1", HELD)
    assert [(item.product_id, item.quantity) for item in made.items] == [(ids[1], 10), (ids[0], 3)]
    assert not made.HasField("end_time")
    assert made.expire_time.seconds - made.create_time.seconds == 15 * 60
    assert UUID(made.reservation_id).version == 7
    assert await other.reservation(made.reservation_id) == made
    assert await other.numbers(ids[0]) == (7, 3)
    assert await other.numbers(ids[1]) == (0, 10)


async def test_too_little_of_one_product_reserves_nothing_of_any(stock: Stockroom) -> None:
    ids = sorted(new_id() for _ in range(3))
    for id in ids:
        await stock.set(id, 5)
    refusal = await refused(stock.reserve({ids[0]: 5, ids[1]: 6, ids[2]: 5}))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK")
    assert refusal.metadata == {"product_id": ids[1], "available": "5"}
    assert [await stock.numbers(id, bypass=True) for id in ids] == [(5, 0)] * 3
    refusal = await refused(stock.reserve({ids[0]: 1, new_id("zz"): 1}))
    assert refusal.code is StatusCode.NOT_FOUND
    assert await stock.numbers(ids[0], bypass=True) == (5, 0)


@pytest.mark.parametrize("buckets", [1, 4])
async def test_never_more_is_granted_than_there_is(stock: Stockroom, other: Stockroom, buckets: int) -> None:
    id = new_id()
    await stock.set(id, 20, bucket_count=buckets)
    calls = [room.reserve({id: 1 + number % 3}) for number, room in enumerate((stock, other) * 40)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    granted = sum(reply.items[0].quantity for reply in replies if not isinstance(reply, BaseException))
    refusals = [reply for reply in replies if isinstance(reply, BaseException)]
    assert refusals
    available, reserved = await stock.numbers(id, bypass=True)
    assert (available, reserved) == (20 - granted, granted)
    # Who wanted one piece, and 27 did, was refused only when none was left.
    assert available == 0
    assert await other.numbers(id) == (available, reserved)


async def test_a_repeat_returns_the_first_reply_on_any_sidecar_even_when_nothing_is_left(
    stock: Stockroom, other: Stockroom
) -> None:
    id, request = new_id(), request_id()
    await stock.set(id, 1)
    first = await stock.reserve({id: 1}, request_id=request)
    assert (await refused(other.reserve({id: 1}))).reason == "OUT_OF_STOCK"
    assert await other.reserve({id: 1}, request_id=request) == first
    assert await stock.reserve({id: 1}, request_id=request) == first
    assert await other.numbers(id) == (0, 1)
    assert (await refused(other.reserve({id: 2}, request_id=request))).reason == "REQUEST_ID_REUSED"
    # Somebody else's id is another one, and asks for what is not there.
    assert (await refused(other.reserve({id: 1}, request_id=request, user_id="another"))).reason == "OUT_OF_STOCK"


async def test_repeats_at_the_same_moment_reserve_once(stock: Stockroom, other: Stockroom) -> None:
    id, request = new_id(), request_id()
    await stock.set(id, 100, bucket_count=4)
    replies = await asyncio.gather(*(room.reserve({id: 2}, request_id=request) for room in (stock, other) * 8))
    assert len({reply.reservation_id for reply in replies}) == 1
    assert await stock.numbers(id) == (98, 2)


async def test_committing_sells(stock: Stockroom, other: Stockroom) -> None:
    id = new_id()
    await stock.set(id, 5)
    held = await stock.reserve({id: 2})
    sold = await stock.commit(held.reservation_id)
    assert sold.state == COMMITTED
    assert sold.end_time.seconds >= sold.create_time.seconds
    assert await stock.numbers(id) == (3, 0)
    assert await other.commit(held.reservation_id) == sold
    assert await other.reservation(held.reservation_id) == sold
    assert await stock.numbers(id) == (3, 0)
    refusal = await refused(other.release(held.reservation_id))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "RESERVATION_ENDED")
    assert refusal.metadata == {"reservation_id": held.reservation_id, "state": "committed"}


async def test_releasing_gives_back_at_once_and_once(stock: Stockroom, other: Stockroom) -> None:
    id = new_id()
    await stock.set(id, 2)
    held = await stock.reserve({id: 2})
    assert (await refused(other.reserve({id: 1}))).reason == "OUT_OF_STOCK"
    given_back = await stock.release(held.reservation_id)
    assert given_back.state == RELEASED
    assert await other.release(held.reservation_id) == given_back
    # The other sidecar's gate knows before the release is answered.
    assert (await other.reserve({id: 2})).state == HELD
    for call in (other.commit(held.reservation_id), other.extend(held.reservation_id, 60)):
        assert (await refused(call)).metadata["state"] == "released"
    assert await stock.numbers(id) == (0, 2)


@pytest.mark.parametrize("method", ["commit", "release"])
async def test_a_repeat_of_an_ending_returns_the_first_reply(stock: Stockroom, other: Stockroom, method: str) -> None:
    id, request = new_id(), request_id()
    await stock.set(id, 1)
    held = await stock.reserve({id: 1})
    first = await getattr(stock, method)(held.reservation_id, request_id=request)
    assert await getattr(other, method)(held.reservation_id, request_id=request) == first


async def test_what_is_over_expires_and_gives_back(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        stock, (id, late) = Stockroom(shop.channel), (new_id(), new_id())
        await stock.set(id, 5)
        await stock.set(late, 5)
        first = await stock.reserve({id: 2}, hold=60)
        sold = await stock.reserve({id: 1}, hold=60)
        later = await stock.reserve({late: 1}, hold=3600)
        await stock.commit(sold.reservation_id)
        assert await expire(database, at=moment(first.expire_time, after=-0.001)) == 0
        assert await expire(database, at=moment(first.expire_time, after=1)) == 1
        assert (await stock.reservation(first.reservation_id)).state == EXPIRED
        assert (await stock.reservation(sold.reservation_id)).state == COMMITTED
        assert (await stock.reservation(later.reservation_id)).state == HELD
        assert await stock.numbers(id, bypass=True) == (4, 0)
        assert (await stock.release(first.reservation_id)).state == EXPIRED
        assert (await refused(stock.commit(first.reservation_id))).metadata["state"] == "expired"
        assert await expire(database, at=moment(first.expire_time, after=1)) == 0


async def test_an_extension_only_ever_gives_more_time(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        stock, id, request = Stockroom(shop.channel), new_id(), request_id()
        await stock.set(id, 5)
        held = await stock.reserve({id: 1}, hold=60)
        extended = await stock.extend(held.reservation_id, 600, request_id=request)
        assert 598 < extended.expire_time.seconds - held.create_time.seconds < 630
        assert (await stock.extend(held.reservation_id, 1)).expire_time == extended.expire_time
        assert await stock.extend(held.reservation_id, 600, request_id=request) == extended
        assert await expire(database, at=moment(held.expire_time, after=1)) == 0
        assert await expire(database, at=moment(extended.expire_time, after=1)) == 1


async def test_a_commit_racing_an_expiry_has_one_winner(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        stock, id = Stockroom(shop.channel), new_id()
        await stock.set(id, 200, bucket_count=4)
        held = [await stock.reserve({id: 1}, hold=1) for _ in range(60)]
        over = moment(held[-1].expire_time, after=1)
        endings = [stock.commit(one.reservation_id) for one in held[::2]] + [stock.release(one.reservation_id) for one in held]
        random.shuffle(endings)
        replies, *expired = await asyncio.gather(
            asyncio.gather(*endings, return_exceptions=True), expire(database, at=over), expire(database, at=over)
        )
        states = [(await stock.reservation(one.reservation_id)).state for one in held]
        told = [reply for reply in replies if not isinstance(reply, BaseException)]
        assert all(reply.state == states[[h.reservation_id for h in held].index(reply.reservation_id)] for reply in told)
        assert states.count(EXPIRED) == sum(expired)
        assert set(states) <= {COMMITTED, RELEASED, EXPIRED}
        assert await stock.numbers(id, bypass=True) == (200 - states.count(COMMITTED), 0)


async def test_one_worker_skips_what_another_works_on(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        stock, id = Stockroom(shop.channel), new_id()
        await stock.set(id, 10)
        held = [await stock.reserve({id: 1}, hold=1) for _ in range(3)]
        over = moment(held[-1].expire_time, after=1)
        import psycopg  # noqa: PLC0415

        async with await psycopg.AsyncConnection.connect(database) as connection:
            await connection.execute(
                "SELECT FROM cache_sidecar.reservations WHERE reservation_id = %s FOR UPDATE", [held[1].reservation_id]
            )
            assert await expire(database, at=over) == 2
        assert await expire(database, at=over) == 1


async def test_there_is_no_such_reservation(stock: Stockroom) -> None:
    id = str(uuid4())
    for call in (stock.reservation(id), stock.commit(id), stock.release(id), stock.extend(id, 60)):
        refusal = await refused(call)
        assert (refusal.code, refusal.metadata) == (StatusCode.NOT_FOUND, {"resource": "reservation", "id": id})


async def test_reservations_are_listed_newest_first(stock: Stockroom, other: Stockroom) -> None:
    ids, user = [new_id(), new_id()], new_id("user")
    for id in ids:
        await stock.set(id, 1000, bucket_count=2)
    made = [await stock.reserve(dict.fromkeys(ids, 1), user_id=user) for _ in range(7)]
    await stock.reserve({ids[0]: 1}, user_id="somebody else")
    made[2] = await stock.commit(made[2].reservation_id)
    # Two may be made in the same millisecond.
    wanted = sorted(made, key=lambda one: one.reservation_id, reverse=True)
    assert await _listed(other, user_id=user) == wanted
    assert await _listed(other, user_id=user, page_size=3) == wanted
    assert await _listed(other, user_id=user, state=COMMITTED) == [made[2]]
    assert await _listed(other, user_id=user, state=HELD, page_size=2) == [one for one in wanted if one.state == HELD]
    assert await _listed(other, user_id=user, state=EXPIRED) == []
    everybody = await other.calls.ListReservations(pb.ListReservationsRequest(page_size=1000))
    assert len(everybody.reservations) <= MAX_PAGE


async def test_page_tokens_are_only_good_for_their_listing(stock: Stockroom) -> None:
    id, user = new_id(), new_id("user")
    await stock.set(id, 10)
    for _ in range(2):
        await stock.reserve({id: 1}, user_id=user)
    page = await stock.calls.ListReservations(pb.ListReservationsRequest(page_size=1, user_id=user))
    token = page.next_page_token
    assert token
    from cache_sidecar.services.shared import pages  # noqa: PLC0415

    forged = pages.token("no uuid", "reservations  ")
    for request in (
        pb.ListReservationsRequest(page_size=1, page_token=token),
        pb.ListReservationsRequest(page_token=forged),
        pb.ListReservationsRequest(page_size=-1),
        pb.ListReservationsRequest(state=17),  # type: ignore[arg-type]
    ):
        assert (await refused(stock.calls.ListReservations(request))).code is StatusCode.INVALID_ARGUMENT


INVALID = {
    "nothing": reserving({}),
    "much": reserving({f"p{number}": 1 for number in range(1001)}),
    "no quantity": reserving({"a": 0}),
    "negative quantity": reserving({"a": -1}),
    "twice": pb.ReserveInventoryRequest(
        items=[ReservationItem(product_id="a", quantity=1)] * 2, user_id="u", request_id=request_id()
    ),
    "no product": reserving({"": 1}),
    "no user": reserving({"a": 1}, user_id=""),
    "no request_id": reserving({"a": 1}, request_id=""),
    "short": reserving({"a": 1}, hold=0.5),
    "long": reserving({"a": 1}, hold=604801),
}


@pytest.mark.parametrize("name", INVALID)
async def test_requests_that_break_a_rule_are_refused(stock: Stockroom, name: str) -> None:
    refusal = await refused(stock.calls.ReserveInventory(INVALID[name]))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.violations


async def test_the_largest_quantity_and_many_products(stock: Stockroom) -> None:
    big = new_id()
    await stock.set(big, 10**15)
    for _ in range(2):
        await stock.reserve({big: 2**31 - 1})
    assert await stock.numbers(big) == (10**15 - 2 * (2**31 - 1), 2 * (2**31 - 1))
    many = {new_id(): 1 for _ in range(300)}
    await asyncio.gather(*(stock.set(id, 1) for id in many))
    held = await stock.reserve(many)
    assert len(held.items) == 300
    await stock.commit(held.reservation_id)
    assert [await stock.numbers(id) for id in list(many)[:3]] == [(0, 0)] * 3


async def test_reservations_of_the_same_products_never_wait_in_a_circle(
    stock: Stockroom, other: Stockroom, shared_database: str
) -> None:
    ids = [new_id() for _ in range(4)]
    for number, id in enumerate(ids):
        await stock.set(id, 1000, bucket_count=1 + number)

    async def shop_around(room: Stockroom, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            wanted = {id: chance.randint(1, 40) for id in chance.sample(ids, chance.randint(1, 4))}
            held = await room.reserve(wanted)
            await (room.commit if chance.random() < 0.3 else room.release)(held.reservation_id)
            if chance.random() < 0.2:
                await room.adjust(chance.choice(ids), 5)

    await asyncio.gather(*(shop_around(room, seed) for seed, room in enumerate((stock, other) * 6)))
    sold = dict(
        await query(
            shared_database,
            """SELECT product_id, sum(quantity) FROM cache_sidecar.reservation_items JOIN cache_sidecar.reservations
               USING (reservation_id) WHERE state = 'committed' AND product_id = ANY(%s) GROUP BY product_id""",
            ids,
        )
    )
    added = dict(
        await query(
            shared_database,
            """SELECT product_id, sum(delta) FROM cache_sidecar.inventory_adjustments
               WHERE product_id = ANY(%s) GROUP BY product_id""",
            ids,
        )
    )
    for id in ids:
        assert await stock.numbers(id) == (1000 + added.get(id, 0) - sold.get(id, 0), 0)


async def _listed(room: Stockroom, **fields: object) -> list[object]:
    found: list[object] = []
    token = ""
    while True:
        reply = await room.calls.ListReservations(pb.ListReservationsRequest(page_token=token, **fields))  # type: ignore[arg-type]
        found += reply.reservations
        token = reply.next_page_token
        if not token:
            return found
