"""Items without a price, whose price is that of the catalogue, through two sidecars."""

from typing import Any

import pytest
from grpc import StatusCode
from psycopg.pq import TransactionStatus

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.store.connection import Connection, summarize
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem, CataloguePrice
from tests.fix_postgres import copy_of
from tests.support.customers import Customer, amounts, item, lines, money, new_request, new_user
from tests.support.databases import SIDECAR, as_role, run
from tests.support.shop import Open, Shop, new_id, refused

SET_PRICE = "UPDATE cache_sidecar.products SET price_units = %s WHERE product_id = %s"


def unpriced(product_id: str, quantity: int = 1, **options: str) -> CartItem:
    """Returns a line of a cart without a price."""
    return CartItem(product_id=product_id, quantity=quantity, options=options)


async def add(customer: Customer, user: str, line: CartItem, request_id: str = "") -> pb.AddCartItemResponse:
    request = pb.AddCartItemRequest(user_id=user, item=line, request_id=request_id or new_request())
    reply: pb.AddCartItemResponse = await customer.carts.AddCartItem(request)
    return reply


def prices(cart: Cart) -> list[str]:
    return [f"{line.unit_price.units} {line.unit_price.currency_code}" for line in cart.items]


async def test_an_item_without_a_price_gets_that_of_the_catalogue(shops: tuple[Shop, Shop]) -> None:
    first, second = (Customer(shop.sidecar) for shop in shops)
    user = new_user()
    kite = await shops[0].create(price=money("24.99 EUR"))
    reply = await add(first, user, unpriced(kite.product_id, 2, size="L"))
    assert reply.cart.items[0] == item(kite.product_id, 2, "24.99 EUR", size="L")
    assert amounts(reply.cart) == ["49.98 EUR"]
    known = CataloguePrice(product_id=kite.product_id, unit_price=kite.price, product_etag=kite.etag)
    assert list(reply.catalogue_prices) == [known]
    for customer in (first, second):
        assert await customer.cart(user) == await customer.cart(user, bypass=True) == reply.cart


async def test_a_given_price_is_stored_as_given(shop: Shop, customer: Customer) -> None:
    kite = await shop.create(price=money("24.99 EUR"))
    reply = await add(customer, new_user(), item(kite.product_id, 1, "0.00 USD"))
    assert prices(reply.cart) == ["0 USD"]
    assert not reply.catalogue_prices
    refusal = await refused(add(customer, new_user(), CartItem(product_id=kite.product_id, quantity=1, unit_price={})))
    assert (refusal.code, set(refusal.violations)) == (StatusCode.INVALID_ARGUMENT, {"item.unit_price"})


async def test_the_price_is_that_of_postgresql_whatever_caches_hold(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        customer, user = Customer(shop.sidecar), new_user()
        kite = await shop.create(price=money("5.00 EUR"))
        await run(database, SET_PRICE, [6, kite.product_id])
        assert (await shop.get(kite.product_id)).product.price == kite.price, "no relay runs"
        assert prices((await add(customer, user, unpriced(kite.product_id))).cart) == ["6 EUR"]
        await run(database, SET_PRICE, [7, kite.product_id])
        assert prices(await customer.cart(user, bypass=True)) == ["6 EUR"]
        assert prices((await add(customer, user, unpriced(kite.product_id))).cart) == ["7 EUR"], "of all its pieces"


async def test_several_changes_may_lack_prices_and_each_product_is_listed_once(shop: Shop, customer: Customer) -> None:
    one, two = await shop.create(price=money("1.00 EUR")), await shop.create(price=money("2.00 USD"))
    user = new_user()
    await add(customer, user, item("old", 1, "9.00 EUR"))
    changes = [
        CartChange(add_item=unpriced(two.product_id, 3)),
        CartChange(add_item=item("given", 1, "4.00 EUR")),
        CartChange(add_item=unpriced(one.product_id, 1, size="M")),
        CartChange(add_item=unpriced(two.product_id, 1)),
        CartChange(remove_item=CartChange.RemoveItem(product_id="old")),
    ]
    request = pb.ApplyCartChangesRequest(user_id=user, changes=changes, request_id=new_request())
    reply = await customer.carts.ApplyCartChanges(request)
    assert prices(reply.cart) == ["2 USD", "4 EUR", "1 EUR"]
    assert amounts(reply.cart) == ["5.00 EUR", "8.00 USD"], "a cart may have several currencies"
    assert [(price.product_id, price.product_etag) for price in reply.catalogue_prices] == [
        (two.product_id, two.etag),
        (one.product_id, one.etag),
    ]


@pytest.mark.parametrize("request_id", ["", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"])
async def test_a_replaced_cart_may_lack_prices_also_where_that_changes_nothing(
    shop: Shop, customer: Customer, request_id: str
) -> None:
    kite = await shop.create(price=money("3.00 EUR"))
    cart = Cart(user_id=new_user(), items=[item("given", 1, "1.00 EUR"), unpriced(kite.product_id)])
    replaced = await customer.carts.ReplaceCart(pb.ReplaceCartRequest(cart=cart))
    assert prices(replaced.cart) == ["1 EUR", "3 EUR"]
    again = await customer.carts.ReplaceCart(pb.ReplaceCartRequest(cart=cart, request_id=request_id))
    assert again == replaced
    assert [price.product_id for price in again.catalogue_prices] == [kite.product_id]
    cart.etag = "f"
    assert (await refused(customer.carts.ReplaceCart(pb.ReplaceCartRequest(cart=cart)))).reason == "ETAG_MISMATCH"


async def test_a_product_that_is_not_there_or_not_sold_is_refused_and_nothing_changes(shop: Shop, customer: Customer) -> None:
    sold, kept = await shop.create(), await shop.create(active=False)
    user, unknown = new_user(), new_id()
    before = await customer.add(user, item("a"))
    for product_id, resource in ((unknown, "product"), (kept.product_id, "active product")):
        refusal = await refused(add(customer, user, unpriced(product_id)))
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
        assert refusal.metadata == {"resource": resource, "id": product_id}
        changes = [CartChange(add_item=unpriced(one)) for one in (sold.product_id, product_id)]
        request = pb.ApplyCartChangesRequest(user_id=user, changes=changes, request_id=new_request())
        assert (await refused(customer.carts.ApplyCartChanges(request))).metadata["id"] == product_id
        assert await customer.cart(user, bypass=True) == before
        assert lines(await customer.add(new_user(), item(product_id))) == {product_id: 1}, "with a price it is not looked up"


async def test_a_repeat_gets_the_price_of_the_first_time(shops: tuple[Shop, Shop]) -> None:
    first, second = (Customer(shop.sidecar) for shop in shops)
    kite = await shops[0].create(price=money("24.99 EUR"))
    user, same = new_user(), new_request()
    reply = await add(first, user, unpriced(kite.product_id), same)
    await shops[0].update(kite.product_id, price=money("1.00 EUR"))
    assert await add(second, user, unpriced(kite.product_id), same) == reply
    await shops[0].update(kite.product_id, "active", active=False)
    assert await add(first, user, unpriced(kite.product_id), same) == reply
    await shops[0].delete(kite.product_id)
    assert await add(second, user, unpriced(kite.product_id), same) == reply
    assert await second.cart(user, bypass=True) == reply.cart
    refusal = await refused(add(first, user, item(kite.product_id, 1, "24.99 EUR"), same))
    assert refusal.reason == "REQUEST_ID_REUSED", "to name the price is another request"


async def test_catalogue_and_carts_may_be_different_databases(
    open_shop: Open, database: str, template: str, postgres: Postgres
) -> None:
    async with copy_of(template, postgres) as users, open_shop(postgres_user=as_role(SIDECAR, users)) as shop:
        kite = await shop.create(price=money("8.00 EUR"))
        # The database of the carts has a table of products as well, which is not the catalogue.
        await run(
            users,
            "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) VALUES (%s, 'A', 1, 'EUR')",
            [kite.product_id],
        )
        customer, user, same = Customer(shop.sidecar), new_user(), new_request()
        reply = await add(customer, user, unpriced(kite.product_id), same)
        assert prices(reply.cart) == ["8 EUR"]
        assert [price.product_etag for price in reply.catalogue_prices] == [kite.etag]
        await run(database, "DELETE FROM cache_sidecar.products")
        assert await add(customer, user, unpriced(kite.product_id), same) == reply
        assert (await refused(add(customer, user, unpriced(kite.product_id)))).metadata["resource"] == "product"


async def test_a_price_that_no_cart_can_have_is_not_taken(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        kite = await shop.create()
        await run(database, "ALTER TABLE cache_sidecar.products DROP CONSTRAINT products_currency_code_check")
        await run(database, "UPDATE cache_sidecar.products SET currency_code = 'euro'")
        refusal = await refused(add(Customer(shop.sidecar), new_user(), unpriced(kite.product_id)))
        assert (refusal.code, refusal.reason) == (StatusCode.DATA_LOSS, "UNREADABLE_ROW")
        assert refusal.metadata["resource"] == "product"


async def test_a_given_price_costs_no_statement_more(shop: Shop, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    kite = await shop.create()
    user = new_user()
    for line in (item("first"), unpriced(kite.product_id)):
        await add(customer, user, line)  # the statements below are not the first of their kind
    executed: list[tuple[str, bool]] = []
    execute = Connection.execute

    async def recorded(self: Connection, query: Any, *more: Any, **options: Any) -> Any:
        is_within = self.info.transaction_status == TransactionStatus.INTRANS
        # Products are also read by what compares caches with PostgreSQL, never in a transaction.
        if (name := summarize(query)[1]).endswith("carts") or (name.endswith("products") and is_within):
            executed.append((name, is_within))
        return await execute(self, query, *more, **options)

    monkeypatch.setattr(Connection, "execute", recorded)
    await add(customer, user, item("first"))
    assert executed == [("SELECT carts", False), ("UPDATE carts", False)]
    executed.clear()
    await add(customer, user, unpriced(kite.product_id))
    assert executed == [("SELECT carts", True), ("SELECT products", True), ("UPDATE carts", True)]
