"""StorefrontService: pages as their callers see them, with what each part is when something fails."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.tiers.redis.node import Command, RedisNode
from cache_sidecar.tiers.redis.scripts import SCRIPTS
from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1 import session_service_pb2 as sessions
from cache_sidecar.v1 import storefront_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.recommendation_pb2 import RecommendationPlacement as Placement
from cache_sidecar.v1.storefront_service_pb2_grpc import StorefrontServiceStub
from tests.contract.test_access import bearing
from tests.support import inside
from tests.support.customers import Customer, amounts, item, lines, new_user
from tests.support.databases import SIDECAR, as_role
from tests.support.proxy import Proxy
from tests.support.recommended import Visitor, forget, ids_of, learn_baskets
from tests.support.shop import L1, L2, STORE, Open, Shop, new_id, refused, without_cache
from tests.support.stockroom import Stockroom
from tests.support.tokens import secret_file, token
from tests.support.until import DEADLINE, until

NOT_FOUND, UNAVAILABLE, DEADLINE_EXCEEDED = (
    status.value[0] for status in (StatusCode.NOT_FOUND, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
)


class Pages:
    """StorefrontService as a shop calls it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.calls: Any = StorefrontServiceStub(channel)

    async def home(self, **fields: Any) -> pb.GetHomePageResponse:
        reply: pb.GetHomePageResponse = await self.calls.GetHomePage(pb.GetHomePageRequest(**fields))
        return reply

    async def category(self, category: str, **fields: Any) -> pb.GetCategoryPageResponse:
        request = pb.GetCategoryPageRequest(category=category, **fields)
        reply: pb.GetCategoryPageResponse = await self.calls.GetCategoryPage(request)
        return reply

    async def product(self, product_id: str, *, timeout: float | None = None, **fields: Any) -> pb.GetProductPageResponse:
        request = pb.GetProductPageRequest(product_id=product_id, **fields)
        reply: pb.GetProductPageResponse = await self.calls.GetProductPage(request, timeout=timeout)
        return reply

    async def cart(self, user_id: str, **fields: Any) -> pb.GetCartPageResponse:
        reply: pb.GetCartPageResponse = await self.calls.GetCartPage(pb.GetCartPageRequest(user_id=user_id, **fields))
        return reply

    async def checkout(self, user_id: str, **fields: Any) -> pb.GetCheckoutPageResponse:
        request = pb.GetCheckoutPageRequest(user_id=user_id, **fields)
        reply: pb.GetCheckoutPageResponse = await self.calls.GetCheckoutPage(request)
        return reply


@pytest.fixture
def pages(shop: Shop) -> Pages:
    return Pages(shop.channel)


@pytest.fixture
def visitor(shop: Shop) -> Visitor:
    return Visitor(shop.channel)


Learn = Callable[..., Awaitable[None]]


@pytest.fixture
def learn(shops: tuple[Shop, Shop], shared_database: str) -> Learn:
    """Has a new customer buy products together, and drops what sidecars hold of recommendations."""

    async def learn_and_forget(*product_ids: str) -> None:
        await learn_baskets(shared_database, (new_user(), product_ids))
        await forget(*shops)

    return learn_and_forget


def parts(reply: Message) -> set[str]:
    """Returns the parts of a page that have no error."""
    return {field.name for field, part in reply.ListFields() if not part.HasField("error")}


def errors(reply: Message) -> dict[str, tuple[int, str]]:
    """Returns the codes and reasons of the parts that have one."""
    return {field.name: (part.error.code, part.error.reason) for field, part in reply.ListFields() if part.HasField("error")}


def in_order(reply: pb.ProductsPart | pb.ProductListPart) -> list[str]:
    return [product.product_id for product in reply.products]


async def test_the_page_of_a_product_has_what_the_calls_for_its_parts_return(
    pages: Pages, shop: Shop, stock: Stockroom, customer: Customer, visitor: Visitor, learn: Learn
) -> None:
    sofa, lamp = [(await shop.create()).product_id for _ in range(2)]
    await stock.set(sofa, 7)
    await learn(sofa, lamp)
    user = new_user()
    await customer.add(user, item(lamp, 2, "9.50 EUR"))
    await customer.add(user, item(sofa, 1, "100.00 EUR"))
    session = await customer.create(user, theme="dark")
    await shop.get(sofa)
    page = await pages.product(sofa, user_id=user, session_id=session)
    assert parts(page) == {"product", "inventory", "recommendations", "cart", "session"}
    assert page.product.product == (await shop.get(sofa)).product
    assert page.inventory.inventory == await stock.get(sofa)
    assert (page.cart.item_count, page.cart.piece_count, page.cart.etag) == (2, 3, (await customer.cart(user)).etag)
    assert amounts(page.cart) == ["119.00 EUR"]  # type: ignore[arg-type]  # it has totals, too
    assert page.session.session.attributes == {"theme": "dark"}
    alone = await visitor.ask(user, placement=Placement.RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL, context_product_ids=[sofa])
    listed = page.recommendations
    assert ids_of(listed)[0] == lamp  # type: ignore[arg-type]  # it has recommendations, too
    assert listed.recommendations == alone.recommendations
    assert (listed.attribution_token, listed.generator) == (alone.attribution_token, alone.generator)
    assert in_order(listed.products) == ids_of(alone)
    assert listed.products.products[0] == (await shop.get(lamp)).product
    # Each part says by itself where it comes from.
    assert [part.cache.source for part in (page.product, page.inventory, page.cart, page.session)] == [L1, L2, L2, L2]
    assert page.product.cache.version == (await shop.get(sofa)).cache.version
    assert page.recommendations.HasField("cache")
    assert len(listed.products.product_caches) == len(listed.products.products)


async def test_what_redis_has_of_a_page_is_read_by_one_pipeline_for_each_node(
    pages: Pages, shop: Shop, stock: Stockroom, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sofa, user = (await shop.create()).product_id, new_user()
    await stock.set(sofa, 7)
    await customer.add(user, item(sofa))
    session = await customer.create(user)
    await pages.product(sofa, user_id=user, session_id=session, recommendation_count=0)
    exchange, digests = RedisNode.exchange, {SCRIPTS[name].digest for name in ("read", "touch")}
    sent: list[tuple[object, int]] = []

    async def counted(node: RedisNode, commands: Sequence[Command], **how: Any) -> list[Any]:
        if reads := sum(command[1] in digests for command in commands):
            sent.append((node.address, reads))
        return await exchange(node, commands, **how)

    monkeypatch.setattr(RedisNode, "exchange", counted)
    page = await pages.product(sofa, user_id=user, session_id=session, recommendation_count=0)
    assert [part.cache.source for part in (page.product, page.inventory, page.cart, page.session)] == [L1, L2, L2, L2]
    assert sum(reads for _, reads in sent) == 3
    assert len(sent) == len({node for node, _ in sent})


async def test_a_page_counts_as_a_use_of_the_session(pages: Pages, customer: Customer) -> None:
    session = await customer.create(new_user())
    first = await customer.touch(session)
    found = (await pages.home(session_id=session)).session.session.expire_time
    assert found.seconds + found.nanos / 1e9 > first


async def test_what_is_not_asked_for_is_not_there(pages: Pages, shop: Shop) -> None:
    sofa = (await shop.create()).product_id
    assert parts(await pages.product(sofa)) == {"product", "recommendations"}
    page = await pages.product(sofa, recommendation_count=0)
    assert (parts(page), errors(page)) == ({"product"}, {"inventory": (NOT_FOUND, "NOT_FOUND")})
    assert parts(await pages.home(recommendation_count=0)) == set()
    one = await pages.home(recommendation_count=1)
    assert len(one.recommendations.recommendations) == len(one.recommendations.products.products) == 1


async def test_freshness_is_required_of_every_part(pages: Pages, shop: Shop, stock: Stockroom, customer: Customer) -> None:
    sofa, user = (await shop.create()).product_id, new_user()
    await stock.set(sofa, 1)
    await customer.add(user, item(sofa))
    page = await pages.product(sofa, user_id=user, recommendation_count=0, options=ReadOptions(bypass=True))
    assert [part.cache.source for part in (page.product, page.inventory, page.cart)] == [STORE] * 3


async def test_a_product_that_does_not_exist_has_no_page_and_other_absences_are_marked(
    pages: Pages, shop: Shop, customer: Customer
) -> None:
    user, session = new_user(), await customer.create()
    absent = await refused(pages.product("nobody", user_id=user, session_id=session))
    assert (absent.code, absent.reason, absent.metadata["resource"]) == (StatusCode.NOT_FOUND, "NOT_FOUND", "product")
    await customer.sessions.DeleteSession(sessions.DeleteSessionRequest(session_id=session))
    sofa = (await shop.create()).product_id
    page = await pages.product(sofa, user_id=user, session_id=session)
    assert parts(page) == {"product", "recommendations", "cart"}
    assert errors(page) == {"inventory": (NOT_FOUND, "NOT_FOUND"), "session": (NOT_FOUND, "NOT_FOUND")}
    assert page.inventory.error.message
    assert dict(page.inventory.error.metadata) == {"resource": "inventory", "id": sofa}
    assert not page.inventory.error.HasField("retry_delay")
    assert page.cart.item_count == 0


async def test_the_page_of_a_category_has_a_page_of_its_products_with_their_stock(
    pages: Pages, shop: Shop, stock: Stockroom
) -> None:
    category = new_id("category")
    a, b, c = sorted(new_id() for _ in range(3))
    for id in (c, a, b):
        await shop.create(id, categories=[category])
        if id != b:
            await stock.set(id, 5)
    first = await pages.category(category, page_size=2)
    assert parts(first) == {"products", "inventories", "recommendations"}
    assert in_order(first.products) == [a, b]
    assert [one.product_id for one in first.inventories.inventories] == [a]
    assert list(first.inventories.missing) == [b]
    second = await pages.category(category, page_size=2, page_token=first.products.next_page_token)
    assert (in_order(second.products), second.products.next_page_token) == ([c], "")
    request = products.ListProductsRequest(category=category, page_size=2)
    assert list(first.products.products) == list((await shop.products.ListProducts(request)).products)
    nothing = await pages.category(new_id("category"), recommendation_count=0)
    assert (parts(nothing), in_order(nothing.products)) == ({"products"}, [])


async def test_the_fault_of_a_request_fails_the_page(pages: Pages) -> None:
    for call, field in (
        (pages.category("x", page_token="no token"), "page_token"),
        (pages.category("x", page_size=-1), "page_size"),
        (pages.product(""), "product_id"),
        (pages.cart(""), "user_id"),
        (pages.home(recommendation_count=101), "recommendation_count"),
        (pages.checkout("u", session_id="x" * 257), "session_id"),
    ):
        found = await refused(call)
        assert (found.code, list(found.violations)) == (StatusCode.INVALID_ARGUMENT, [field])


async def test_the_pages_of_a_cart_have_its_products_and_what_goes_with_them(
    pages: Pages, shop: Shop, stock: Stockroom, customer: Customer, learn: Learn
) -> None:
    sofa, lamp, rug = [(await shop.create()).product_id for _ in range(3)]
    await learn(sofa, lamp, rug)
    await stock.set(sofa, 3)
    user = new_user()
    gone = new_id()
    await customer.add(user, item(sofa, 1, size="L"))
    await customer.add(user, item(gone))
    await customer.add(user, item(sofa, 1, size="S"))
    await customer.add(user, item(lamp))
    session = await customer.create(user)
    for page in (await pages.cart(user, session_id=session), await pages.checkout(user, session_id=session)):
        assert parts(page) == {"cart", "products", "inventories", "recommendations", "session"}
        assert page.cart.cart == await customer.cart(user)
        assert page.cart.cache.source == L2
        assert (in_order(page.products), list(page.products.missing)) == ([sofa, lamp], [gone])
        assert [one.available for one in page.inventories.inventories] == [3]
        assert list(page.inventories.missing) == [gone, lamp]
        listed = ids_of(page.recommendations)  # type: ignore[arg-type]  # it has recommendations, too
        assert listed[0] == rug
        assert not {sofa, lamp} & set(listed)
        assert list(page.recommendations.missing_product_ids) == [gone]
    place = (await pages.checkout(user)).recommendations.attribution_token.split("/")[2]
    assert (place, (await pages.cart(user)).recommendations.attribution_token.split("/")[2]) == ("CHECKOUT", "SHOPPING_CART")


async def test_the_page_of_an_empty_cart_has_recommendations_alone(pages: Pages, shop: Shop, learn: Learn) -> None:
    await learn((await shop.create()).product_id)
    page = await pages.cart(new_user())
    assert parts(page) == {"cart", "recommendations"}
    assert lines(page.cart.cart) == {}
    assert page.recommendations.products.products


async def test_the_home_page_is_answered_by_the_cached_list(
    pages: Pages, shop: Shop, visitor: Visitor, learn: Learn, shared_database: str
) -> None:
    sofa, user = (await shop.create()).product_id, new_user()
    await learn_baskets(shared_database, (user, [sofa]))
    await learn(sofa)
    first = await visitor.ask(user)
    page = await pages.home(user_id=user)
    assert parts(page) == {"recommendations", "cart"}
    assert (page.recommendations.cache.source, page.recommendations.recommendations) == (L1, first.recommendations)
    assert in_order(page.recommendations.products) == ids_of(first)
    stranger = await pages.home(user_id=user, personalised=False)
    assert stranger.recommendations.generator == "popular"


async def test_without_postgresql_a_page_has_what_is_cached(open_shop: Open, database: str, postgres: Postgres) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        through = as_role(SIDECAR, database).replace(proxy.target, proxy.address)
        async with open_shop(postgres=through) as shop:
            pages, stock, customer = Pages(shop.channel), Stockroom(shop.channel), Customer(shop.sidecar)
            sofa, user = (await shop.create()).product_id, new_user()
            await stock.set(sofa, 7)
            await customer.add(user, item(sofa))
            session = await customer.create(user)
            warm = await pages.product(sofa, user_id=user, session_id=session)
            proxy.cut()
            page = await pages.product(sofa, user_id=user, session_id=session)
            assert parts(page) == {"product", "inventory", "recommendations", "cart", "session"}
            for name in ("product", "inventory", "cart"):
                assert without_cache(getattr(page, name)) == without_cache(getattr(warm, name))
            # Of another user, nothing is cached; of another product, nothing at all.
            page = await pages.product(sofa, user_id=new_user(), session_id="nobody's")
            assert parts(page) == {"product", "inventory", "recommendations"}
            assert errors(page) == dict.fromkeys(["cart", "session"], (UNAVAILABLE, "TIER_UNAVAILABLE"))
            assert dict(page.cart.error.metadata) == {"tier": "PostgreSQL"}
            assert page.cart.error.retry_delay.ToTimedelta().total_seconds() == 1.0
            page = await pages.product("another", user_id=user)
            assert parts(page) >= {"cart"}
            assert errors(page)["product"] == errors(page)["inventory"] == (UNAVAILABLE, "TIER_UNAVAILABLE")
            # What belongs to a cart that is not known fails as the cart does.
            page = await pages.cart(new_user(), session_id=session)
            assert set(errors(page)) == {"cart", "products", "inventories", "recommendations"}
            assert set(errors(page).values()) == {(UNAVAILABLE, "TIER_UNAVAILABLE")}
            # Where there is nothing to show, the call fails, so that clients try again.
            nothing = await refused(pages.cart(new_user()))
            assert (nothing.code, nothing.reason, nothing.retry_after) == (StatusCode.UNAVAILABLE, "TIER_UNAVAILABLE", 1.0)


async def test_products_of_recommendations_that_cannot_be_read_leave_the_list(
    open_shop: Open, database: str, postgres: Postgres
) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        through = as_role(SIDECAR, database).replace(proxy.target, proxy.address)
        async with open_shop(postgres=through) as shop:
            sofa, user = (await shop.create()).product_id, new_user()
            await learn_baskets(database, (user, [sofa]))
            pages = Pages(shop.channel)
            warm = await pages.home(user_id=user)
            await inside.dataset(shop.app, "product").drop_all()
            proxy.cut()
            page = await pages.home(user_id=user)
            assert page.recommendations.recommendations == warm.recommendations.recommendations
            assert not page.recommendations.HasField("error")
            assert (page.recommendations.products.error.code, in_order(page.recommendations.products)) == (UNAVAILABLE, [])


async def test_a_page_comes_before_its_deadline_without_what_takes_longer(
    open_shop: Open, database: str, postgres: Postgres
) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        through = as_role(SIDECAR, database).replace(proxy.target, proxy.address)
        async with open_shop(postgres=through) as shop:
            pages, stock = Pages(shop.channel), Stockroom(shop.channel)
            sofa = (await shop.create()).product_id
            await stock.set(sofa, 7)
            await pages.product(sofa, user_id=new_user())
            proxy.stall()

            async def is_served() -> bool:
                try:
                    page = await pages.product(sofa, user_id=new_user(), recommendation_count=0, timeout=1.0)
                except grpc.aio.AioRpcError as error:
                    # The machine was too busy for a reply in its last 10 milliseconds.
                    assert error.code() == StatusCode.DEADLINE_EXCEEDED
                    return False
                assert parts(page) == {"product", "inventory"}
                assert errors(page) == {"cart": (DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")}
                return True

            await until(is_served)
            await proxy.heal()


async def test_a_part_that_does_not_fit_is_marked(open_shop: Open, database: str) -> None:
    async with open_shop(max_message_bytes=20_000) as shop:
        pages, customer = Pages(shop.channel), Customer(shop.sidecar)
        sofa, rug = [(await shop.create(description="x" * 10_000)).product_id for _ in range(2)]
        await learn_baskets(database, (new_user(), [sofa, rug]))
        user = new_user()
        await customer.add(user, item(sofa))
        too_large = StatusCode.FAILED_PRECONDITION.value[0], "REPLY_TOO_LARGE"
        page = await pages.product(sofa, user_id=user)
        assert parts(page) == {"product", "cart"}
        assert errors(page) == {"inventory": (NOT_FOUND, "NOT_FOUND"), "recommendations": too_large}
        # The products of the cart do not fit into any reply.
        await customer.add(user, item(rug))
        page = await pages.cart(user, recommendation_count=0)
        assert (parts(page), errors(page)) == ({"cart", "inventories"}, {"products": too_large})


async def test_a_caller_who_leaves_leaves_nothing_behind(open_shop: Open, database: str, postgres: Postgres) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        through = as_role(SIDECAR, database).replace(proxy.target, proxy.address)
        async with open_shop(postgres=through) as shop:
            pages, customer = Pages(shop.channel), Customer(shop.sidecar)
            user = new_user()
            await pages.home(user_id=new_user())
            admission = inside.stack_of(shop.app.server).admission
            await until(lambda: admission.inside == 0)
            tasks = inside.storefront_of(shop.app)
            proxy.stall()
            leaving = asyncio.ensure_future(pages.calls.GetCartPage(pb.GetCartPageRequest(user_id=user)))
            await until(lambda: tasks.running)
            # Another caller waits for the same cart, whose load must go on.
            waiting = asyncio.create_task(customer.cart(user))
            await until(lambda: admission.inside == 2)
            leaving.cancel()
            await until(lambda: not tasks.running and admission.inside == 1)
            await proxy.heal()
            assert (await asyncio.wait_for(waiting, DEADLINE)).user_id == user


async def test_a_page_needs_the_role_of_its_parts(open_shop: Open, tmp_path: Path) -> None:
    app, read = token("app"), token("read")
    file = secret_file(tmp_path / "tokens", f"shop app {app}\nboard read {read}\n")
    async with open_shop(access_tokens_file=str(file)) as shop:
        pages = Pages(shop.channel)
        request = pb.GetHomePageRequest(user_id=new_user())
        assert parts(await pages.calls.GetHomePage(request, **bearing(app))) == {"recommendations", "cart"}
        found = await refused(pages.calls.GetHomePage(request, **bearing(read)))
        assert (found.code, found.reason) == (StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
        assert (await refused(pages.calls.GetHomePage(request))).code == StatusCode.UNAUTHENTICATED
