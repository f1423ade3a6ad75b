"""Recommendations in whole sidecars of one region, with a relay that publishes what the model changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc import StatusCode

from cache_sidecar.config import policy
from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.datasets import TABLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.services.recommendation import STOCK_FOR
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.tiers.path.inspector import Inspection, Inspector
from cache_sidecar.tiers.path.sampler import Sample
from cache_sidecar.tiers.ports import Source
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_pb2 import RecommendationModel as Model
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import new_user
from tests.support.databases import open_database, run
from tests.support.proxy import Proxy
from tests.support.recommended import Visitor, ids_of, learn_baskets
from tests.support.shop import L1, STORE, Open, Shop, refused
from tests.support.shop_model import Reply, ShopModel, a_list
from tests.support.stockroom import Stockroom
from tests.support.until import until

AGAIN = Model.RECOMMENDATION_MODEL_BUY_IT_AGAIN


@pytest.fixture
async def relaying(l2: RedisL2, database: str) -> AsyncIterator[None]:
    """Publishes what is committed, as the relay of a region does; folds nothing in."""
    async with open_database(database) as opened:
        relay = Relay(
            RelayStore(opened),
            l2,
            RedisWatermarks(inside.connection_of(l2), inside.names_of(l2)),
            policy.default(),
            region="local",
            roles=["catalog", "user", "analytics"],
            retention=3600.0,
            clock=SystemClock(),
            dependency=Dependencies().of("relay"),
            tables=TABLES,
        )
        task = asyncio.create_task(relay.run(Leadership(database, region="local")))
        try:
            yield
        finally:
            await cancel_and_wait(task)


@pytest.fixture
async def shops(open_shop: Open) -> AsyncIterator[list[Shop]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_shop()) for _ in range(4)]


@pytest.mark.usefixtures("relaying")
async def test_a_purchase_is_in_the_buyer_s_lists_on_every_sidecar(shops: list[Shop], database: str) -> None:
    a, b = [(await shops[0].create()).product_id for _ in range(2)]
    user, other = new_user(), new_user()
    visitors = [Visitor(shop.channel) for shop in shops]
    await learn_baskets(database, (user, [a]), (other, [a]))
    for visitor in visitors:
        await until(lambda visitor=visitor: is_first(visitor, user, a))  # type: ignore[misc]
        assert await visitor.ids(user, model=AGAIN) == [a]
        await visitor.ask(other)
    await learn_baskets(database, (user, [b]), (user, [b]), publish=False)
    for visitor in visitors:

        async def shows(visitor: Visitor = visitor) -> bool:
            return b in await visitor.ids(user) and await visitor.ids(user, model=AGAIN) == [b, a]

        await until(shows)
        assert (await visitor.ask(other)).cache.source == L1, "others keep theirs"


async def is_first(visitor: Visitor, user: str, product_id: str) -> bool:
    return (await visitor.ids(user))[:1] == [product_id]


@pytest.mark.usefixtures("relaying")
async def test_an_erased_user_is_unknown_everywhere(shops: list[Shop], database: str) -> None:
    a, user = (await shops[0].create()).product_id, new_user()
    await learn_baskets(database, (user, [a]))
    visitors = [Visitor(shop.channel) for shop in shops]
    for visitor in visitors:
        await until(lambda visitor=visitor: is_first(visitor, user, a))  # type: ignore[misc]
        assert (await visitor.ask(user)).generator == "shop"
    await run(database, f"SELECT cache_sidecar.erase_recommendation_user('{user}')")
    for visitor in visitors:

        async def is_unknown(visitor: Visitor = visitor) -> bool:
            return (await visitor.ask(user)).generator == "popular" and await visitor.ids(user, model=AGAIN) == []

        await until(is_unknown)


async def test_a_thousand_misses_of_one_user_are_one_list(shops: list[Shop], database: str) -> None:
    a, user = (await shops[0].create()).product_id, new_user()
    await learn_baskets(database, (user, [a]))
    # Past the limit on calls in progress, which would refuse some of them.
    homes = [inside.dataset(shop.app, "recommendation") for shop in shops]
    answers = await asyncio.gather(*(homes[number % 4].get(user) for number in range(1000)))
    lists = {answer.value for answer in answers}
    assert [ids_of(pb.GetRecommendationsResponse.FromString(value or b"")) for value in lists] == [[a]]
    assert sum(home.stats()[Source.STORE].loads for home in homes) == 1


@pytest.fixture
async def model() -> AsyncIterator[ShopModel]:
    model = ShopModel()
    async with model.serving():
        yield model
        model.gate.open()


@pytest.fixture
async def asking(open_shop: Open, model: ShopModel) -> AsyncIterator[list[Shop]]:
    """Four sidecars that ask the shop's own model first."""
    settings = {"recommendation_generators": "remote,provided,popular", "recommendation_remote_timeout": 10.0}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_shop(recommendation_remote_address=model.address, **settings))
            for _ in range(4)
        ]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_thousand_misses_of_one_user_are_one_call_of_the_model(
    asking: list[Shop], database: str, model: ShopModel, is_known: bool
) -> None:
    a, user = (await asking[0].create()).product_id, new_user()
    await learn_baskets(database, (user if is_known else new_user(), [a]))
    model.reply = a_list(a)
    model.gate.close()
    # Past the limit on calls in progress, which would refuse some of them.
    homes = [inside.dataset(shop.app, "recommendation") for shop in asking]
    reads = [asyncio.create_task(homes[number % 4].get(user)) for number in range(1000)]
    await model.gate.reached()
    model.gate.open()
    lists = {answer.value for answer in await asyncio.gather(*reads)}
    assert [pb.GetRecommendationsResponse.FromString(value or b"").generator for value in lists] == ["remote"]
    for shop in asking:
        reply = await Visitor(shop.channel).ask(user)
        assert (ids_of(reply), reply.generator, reply.cache.source) == ([a], "remote", L1)
    assert [request.user_id for request in model.requests] == [user]


@pytest.mark.usefixtures("relaying")
async def test_a_first_purchase_replaces_what_was_made_for_an_unknown_user(
    asking: list[Shop], database: str, model: ShopModel
) -> None:
    a, b = [(await asking[0].create()).product_id for _ in range(2)]
    user, other = new_user(), new_user()
    model.reply = a_list(a)
    visitors = [Visitor(shop.channel) for shop in asking]
    for visitor in visitors:
        for stranger in (user, other):
            assert ids_of(reply := await visitor.ask(stranger)) == [a]
            assert reply.cache.version == 0
    model.reply = a_list(b)
    await learn_baskets(database, (user, [a]), publish=False)
    for visitor in visitors:
        await until(lambda visitor=visitor: is_first(visitor, user, b))  # type: ignore[misc]
        assert (await visitor.ask(user)).cache.version > 0
        assert ids_of(reply := await visitor.ask(other)) == [a]
        assert reply.cache.source == L1, "others keep theirs"


async def erase(shop: Shop, database: str, user_id: str) -> None:
    """Erases a user of whom nothing is kept but what caches hold."""
    assert await run(database, f"SELECT cache_sidecar.erase_recommendation_user('{user_id}')") == []


async def delete_lists(shop: Shop, database: str, user_id: str) -> None:
    reply = await Visitor(shop.channel).calls.DeleteRecommendations(pb.DeleteRecommendationsRequest(user_id=user_id))
    assert reply.deleted_count == 0


@pytest.mark.usefixtures("relaying")
@pytest.mark.parametrize("leave", [erase, delete_lists])
async def test_what_was_made_for_an_unknown_user_is_dropped_everywhere(
    asking: list[Shop], database: str, model: ShopModel, leave: Callable[[Shop, str, str], Awaitable[None]]
) -> None:
    a, b = [(await asking[0].create()).product_id for _ in range(2)]
    user, visitors = new_user(), [Visitor(shop.channel) for shop in asking]
    for first in (a, b, a):  # also after the mark that a deletion leaves
        model.reply = a_list(first)
        await leave(asking[0], database, user)
        for visitor in visitors:

            async def is_cached(visitor: Visitor = visitor, first: str = first) -> bool:
                reply = await visitor.ask(user)
                return ids_of(reply) == [first] and reply.cache.source != STORE

            await until(is_cached)


async def test_neither_inspection_nor_verify_misses_a_row_of_an_unknown_user(
    asking: list[Shop], database: str, model: ShopModel
) -> None:
    shop, user, visitor = asking[0], new_user(), Visitor(asking[0].channel)
    a, home = (await shop.create()).product_id, inside.dataset(asking[0].app, "recommendation")
    clock = ManualClock()
    inspector = Inspector(home, inside.load_of(home.loader), clock=clock, values_without_rows=True)
    model.reply = a_list(a)
    await visitor.ask(user)
    for reply in (a_list(a), Reply()):  # the model has another opinion by now: none
        model.reply = reply
        home.sampler.take(Sample(user, 0, is_there=True))
        await inspector.step()
        clock.advance(home.policy().staleness_bound)
        await inspector.step()
    assert inspector.counts == Inspection(fresh=2)
    # But a row that appears is missed by an entry that stays.
    await learn_baskets(database, (user, [a]))
    home.sampler.take(Sample(user, 0, is_there=True))
    await inspector.step()
    clock.advance(home.policy().staleness_bound)
    await inspector.step()
    assert inspector.counts == Inspection(fresh=2, violations=1)


async def test_an_unknown_user_of_whom_the_model_knows_nothing_gets_popular_products_and_it_is_asked_once(
    asking: list[Shop], database: str, model: ShopModel
) -> None:
    a, user = (await asking[0].create()).product_id, new_user()
    await learn_baskets(database, (new_user(), [a]))
    model.reply = Reply()
    for shop in asking * 2:
        reply = await Visitor(shop.channel).ask(user)
        assert (ids_of(reply), reply.generator, reply.fallback) == ([a], "popular", "")
    assert len(model.requests) == 1


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_list_that_has_expired_is_better_than_none_of_the_model(
    open_shop: Open, database: str, model: ShopModel, tmp_path: Path, is_known: bool
) -> None:
    clock, user, file = ManualClock(), new_user(), tmp_path / "policy.toml"
    file.write_text("[recommendation]\njitter = 0\n")
    settings = {"recommendation_generators": "remote,popular", "recommendation_remote_timeout": 10.0}
    async with open_shop(clock=clock, policy_file=str(file), recommendation_remote_address=model.address, **settings) as shop:
        a, b = [(await shop.create()).product_id for _ in range(2)]
        await learn_baskets(database, (user if is_known else new_user(), [b]))
        visitor, home = Visitor(shop.channel), inside.dataset(shop.app, "recommendation")
        policy = home.policy()
        model.reply = a_list(a)
        assert await visitor.ids(user) == [a, b]
        model.error = StatusCode.INTERNAL

        async def shown() -> tuple[list[str], str, str, bool]:
            reply = await visitor.ask(user)
            return ids_of(reply), reply.generator, reply.fallback, reply.cache.stale

        clock.advance(max(policy.l1_hard_ttl, policy.l2_ttl) + 1)
        for _ in range(3):
            assert await shown() == ([a, b], "remote", "", True)
        assert len(model.requests) == 2, "a model that fails is not asked by each read"
        clock.advance(policy.negative_ttl)
        assert await shown() == ([a, b], "remote", "", True)
        assert len(model.requests) == 3
        clock.advance(policy.stale_limit)
        for _ in range(3):
            assert await shown() == ([b], "popular", "popular", False)
        assert len(model.requests) == 4
        assert home.stats()[Source.L1].entries == 1, "not kept instead"
        # A purchase is another question.
        await learn_baskets(database, (user, [b]))
        home.on_invalidate(user, 0)
        await shown()
        assert len(model.requests) == 5
        model.error = None
        clock.advance(policy.negative_ttl)
        assert await shown() == ([a, b], "remote", "", False)
        assert (await visitor.ask(user)).cache.source == L1


async def test_a_generator_that_fails_is_replaced_by_the_next(
    open_shop: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop() as shop:
        a, user = (await shop.create()).product_id, new_user()
        await learn_baskets(database, (user, [a]))
        shown = await Visitor(shop.channel).ask(user, explain=True)
        assert (shown.generator, shown.fallback) == ("shop", "")

        async def fail(*_: object) -> None:
            raise TierFailed(Tier.STORE, Failure.UNREACHABLE)

        # What is behind the generator: its rows cannot be read, neither from memory.
        monkeypatch.setattr(inside.dataset(shop.app, "recommendation_item"), "get_many", fail)
        reply = await Visitor(shop.channel).ask(user, explain=True)
        assert (ids_of(reply), reply.generator, reply.fallback) == ([a], "popular", "popular")


async def test_a_product_of_which_nothing_is_known_is_left_out(open_shop: Open, database: str, postgres: Postgres) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as store:
        dsn = f"{database.partition('@')[0]}@{store.address}/{database.rpartition('/')[2]}"
        async with open_shop(postgres=dsn) as shop:
            a, b = [(await shop.create()).product_id for _ in range(2)]
            user, visitor = new_user(), Visitor(shop.channel)
            await learn_baskets(database, (user, [a, b]), (user, [a]))
            whole = await visitor.ask(user, model=AGAIN)
            assert (ids_of(whole), whole.degraded) == ([a, b], False)
            # The caches have forgotten one of the two when PostgreSQL goes.
            await shop.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=[b]))
            store.cut()
            rest = await visitor.ask(user, model=AGAIN)
            assert (ids_of(rest), rest.degraded, rest.fallback) == ([a], True, "")
            await shop.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=[a]))
            assert (await refused(visitor.ask(user, model=AGAIN))).code is StatusCode.UNAVAILABLE


async def test_the_setting_orders_the_generators(open_shop: Open, database: str) -> None:
    async with open_shop(recommendation_generators="popular,shop") as shop:
        a, b = [(await shop.create()).product_id for _ in range(2)]
        user = new_user()
        await learn_baskets(database, (user, [a]), *[(new_user(), [b])] * 5)
        reply = await Visitor(shop.channel).ask(user)
        assert (ids_of(reply), reply.generator) == ([b, a], "popular")
        assert await Visitor(shop.channel).ids(user, model=AGAIN) == [a]


async def test_a_product_that_sells_out_leaves_the_lists(open_shop: Open, database: str) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock) as shop:
        a, b = [(await shop.create()).product_id for _ in range(2)]
        user, stock, visitor = new_user(), Stockroom(shop.channel), Visitor(shop.channel)
        await stock.set(a, 1)
        await learn_baskets(database, (user, [a, b]), (user, [a]))
        assert await visitor.ids(user) == await visitor.ids(user, model=AGAIN) == [a, b]
        await stock.set(a, 0)
        clock.advance(STOCK_FOR - 1)
        assert await visitor.ids(user, model=AGAIN) == [a, b], "remembered"
        clock.advance(2)
        assert await visitor.ids(user, model=AGAIN) == [b]
        clock.advance(300 - STOCK_FOR - 1)
        assert await visitor.ids(user) == [b]
