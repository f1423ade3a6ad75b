"""How old a reply may be: the policy's times, on a clock that the test moves."""

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.shop import L1, L2, STORE, Open, Shop, new_id, refused
from tests.support.until import until


def seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


async def settled(shop: Shop) -> None:
    """Waits until nothing goes on behind the replies: fills of Redis are done then."""
    dataset = inside.dataset(shop.app, "product")
    await until(lambda: not dataset.loader.background.running)


async def read_into_memory(shop: Shop) -> str:
    """Creates a product, reads it from the store into both caches, and returns its id."""
    id = (await shop.create()).product_id
    await shop.get(id, bypass=True)
    await settled(shop)
    return id


async def test_age_grows_with_time_and_starts_anew_when_read_anew(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = await read_into_memory(shop)
        assert seconds((await shop.get(id)).cache.age) == 0
        clock.advance(42.125)
        reply = await shop.get(id)
        assert (reply.cache.source, seconds(reply.cache.age)) == (L1, 42.125)
        reply = await shop.get(id, bypass=True)
        assert (reply.cache.source, seconds(reply.cache.age)) == (STORE, 0)
        assert seconds((await shop.get(id)).cache.age) == 0


async def test_an_entry_past_its_soft_time_is_served_and_refreshed(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = await read_into_memory(shop)
        clock.advance(99.0)
        await shop.get(id)
        await settled(shop)
        assert seconds((await shop.get(id)).cache.age) == 99, "before the soft time nothing is refreshed"
        clock.advance(1.0)
        reply = await shop.get(id)
        assert (reply.cache.source, seconds(reply.cache.age), reply.cache.stale) == (L1, 100, False)
        await settled(shop)
        # Refreshed from Redis, where the value is as old as it was, but the soft time counts from now.
        clock.advance(99.0)
        reply = await shop.get(id)
        assert (reply.cache.source, seconds(reply.cache.age)) == (L1, 199)


async def test_an_entry_past_its_hard_time_is_not_served(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = await read_into_memory(shop)
        clock.advance(200.0)
        reply = await shop.get(id)
        assert (reply.cache.source, seconds(reply.cache.age)) == (L2, 200)
        assert await shop.source(id) == L1


async def test_a_value_in_redis_past_its_time_is_not_served(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = await read_into_memory(shop)
        clock.advance(999.0)
        assert await shop.source(id) == L2
        clock.advance(200.0)
        reply = await shop.get(id)
        assert (reply.cache.source, seconds(reply.cache.age)) == (STORE, 0)
        await settled(shop)
        async with open_shop(clock=clock, policy_file=exact_policy) as other:
            assert await other.source(id) == L2, "what was read from the store was filled into Redis again"


async def test_max_age_is_counted_from_when_postgresql_was_read(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = await read_into_memory(shop)
        clock.advance(10.0)
        assert await shop.source(id, max_age=Duration(seconds=10)) == L1
        assert await shop.source(id, max_age=Duration(seconds=9, nanos=999_000_000)) == STORE
        assert seconds((await shop.get(id)).cache.age) == 0, "the fresher reading replaced the older one"
        await settled(shop)
        clock.advance(5.0)
        async with open_shop(clock=clock, policy_file=exact_policy) as other:
            assert await other.source(id, max_age=Duration(seconds=5)) == L2
            assert await other.source(id, max_age=Duration(seconds=4)) == STORE


async def test_there_is_none_is_remembered_for_its_own_time(open_shop: Open, exact_policy: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=exact_policy) as shop:
        id = new_id()

        async def loads() -> int:
            assert (await refused(shop.get(id))).code == StatusCode.NOT_FOUND
            await settled(shop)
            dataset = inside.dataset(shop.app, "product")
            return dataset.loader.store_batch.loads

        assert await loads() == 1
        clock.advance(9.0)
        assert await loads() == 1
        clock.advance(1.0)
        assert await loads() == 2


async def test_a_policy_without_negative_caching_asks_each_time(open_shop: Open, tmp_path) -> None:
    file = tmp_path / "none.toml"
    file.write_text("[product]\nnegative_ttl = 0\n")
    async with open_shop(clock=ManualClock(), policy_file=str(file)) as shop:
        id = new_id()
        for loads in (1, 2, 3):
            assert (await refused(shop.get(id))).code == StatusCode.NOT_FOUND
            assert inside.dataset(shop.app, "product").loader.store_batch.loads == loads


async def test_a_policy_without_memory_keeps_nothing_in_it(open_shop: Open, tmp_path) -> None:
    file = tmp_path / "none.toml"
    file.write_text("[product]\nl1_soft_ttl = 0\nl1_hard_ttl = 0\n")
    async with open_shop(policy_file=str(file)) as shop:
        id = await read_into_memory(shop)
        assert [await shop.source(id) for _ in range(3)] == [L2, L2, L2]


@pytest.mark.parametrize("jitter", [0.0, 0.5])
async def test_jitter_moves_the_hard_time_by_no_more_than_its_fraction(open_shop: Open, tmp_path, jitter: float) -> None:
    file = tmp_path / "jitter.toml"
    file.write_text(f"[product]\nl1_soft_ttl = 100\nl1_hard_ttl = 100\nl2_ttl = 1000\njitter = {jitter}\n")
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=str(file)) as shop:
        ids = [await read_into_memory(shop) for _ in range(40)]
        clock.advance(100 * (1 - jitter) - 0.1)
        assert {await shop.source(id) for id in ids} == {L1}
        clock.advance(0.2)
        sources = [await shop.source(id) for id in ids]
        assert sources.count(L1) == 0 if jitter == 0 else sources.count(L1) > 30, "they expire apart, not together"
