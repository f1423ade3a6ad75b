"""CartService: what users are about to buy."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
from google.type.money_pb2 import Money

from cache_sidecar.core.errors import EtagMismatch, NotFound
from cache_sidecar.services import cart_items
from cache_sidecar.services.cart_items import Items, Limits
from cache_sidecar.services.shared import pages, rows, wire
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.etags import etag_of
from cache_sidecar.services.shared.freshness import freshness_of, metadata
from cache_sidecar.services.shared.timestamps import optional_timestamp
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.services.shared.wire import field
from cache_sidecar.services.shared.writes import Mutation, Writer
from cache_sidecar.store.cart import CartRow, CartStore, Item
from cache_sidecar.store.product import PriceRow, ProductStore
from cache_sidecar.store.requests import VERSION_DIGITS, VersionedReply
from cache_sidecar.store.values import Micros, micros, micros_from
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Freshness, Load, Row, Source, UnreadableRow
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem, CataloguePrice
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
Prices = Mapping[str, Money]
"""What products cost according to the catalogue: those of lines that were sent without a price."""
Rule = Callable[[CartRow, Prices], Items]
"""What a change makes of the lines of a cart. Pure: it may be applied again, to the cart as it is by then."""
DATASET = "cart"
# Bytes of a cart that still fits into the details of a status, besides the rest of the trailers.
MAX_IN_DETAILS = 3000
_FROM_STORE = Freshness(bypass=True)
# The etag of a cart that was saved is its version in a fixed number of digits, so that the entry's length is known before it.
_ETAG_PLACEHOLDER = field(Cart.ETAG_FIELD_NUMBER, b"0" * VERSION_DIGITS)


class CartService(CartServiceServicer):
    """Reads carts through the tiers. A change is applied to the cart as PostgreSQL has it, and saved through the caches."""

    def __init__(
        self,
        carts: Dataset,
        *,
        store: CartStore,
        products: ProductStore,
        has_products: bool,
        writer: Writer,
        changes: Changes,
        limits: Limits,
        bound: Bound,
    ) -> None:
        """`has_products` says whether the products are in the database of the carts."""
        self._carts = carts
        self._bound = bound
        self._store = store
        self._products = products
        self._has_products = has_products
        self._writer = writer
        self._changes = changes
        self._limits = limits

    async def GetCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCartRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended."""
        return _reply(request.user_id, await self._carts.get(request.user_id, freshness_of(request.options, context)))

    async def ReplaceCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReplaceCartRequest, context: Context
    ) -> bytes:
        """Compares the etag with that of the cart as PostgreSQL has it."""
        lines = request.cart.items

        def replace(cart: CartRow, prices: Prices) -> Items:
            _check_etag(cart, request.cart.etag)
            return cart_items.replace((_item(line, prices) for line in lines), self._limits)

        return await self._change(request, request.cart.user_id, replace, lines)

    async def AddCartItem(  # type: ignore[override]  # replies are serialized here
        self, request: pb.AddCartItemRequest, context: Context
    ) -> bytes:
        """Adds to the lines as PostgreSQL has them."""

        def add(cart: CartRow, prices: Prices) -> Items:
            return cart_items.add(cart.items, _item(request.item, prices), self._limits)

        return await self._change(request, request.user_id, add, [request.item])

    async def SetCartItemQuantity(  # type: ignore[override]  # replies are serialized here
        self, request: pb.SetCartItemQuantityRequest, context: Context
    ) -> bytes:
        """Changes one line."""
        options = dict(request.options)

        def set_quantity(cart: CartRow, _: Prices) -> Items:
            return cart_items.set_quantity(cart.items, request.product_id, options, request.quantity, self._limits)

        return await self._change(request, request.user_id, set_quantity)

    async def RemoveCartItem(  # type: ignore[override]  # replies are serialized here
        self, request: pb.RemoveCartItemRequest, context: Context
    ) -> bytes:
        """Removes one line."""
        options = dict(request.options)
        return await self._change(
            request, request.user_id, lambda cart, _: cart_items.remove(cart.items, request.product_id, options)
        )

    async def ClearCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ClearCartRequest, context: Context
    ) -> bytes:
        """Removes every line, of the cart that the caller knows if it sent an etag."""

        def clear(cart: CartRow, _: Prices) -> Items:
            _check_etag(cart, request.etag)
            return ()

        return await self._change(request, request.user_id, clear)

    async def ApplyCartChanges(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ApplyCartChangesRequest, context: Context
    ) -> bytes:
        """Makes every change, or, when one is refused, none."""

        def apply(cart: CartRow, prices: Prices) -> Items:
            items = cart.items
            for change in request.changes:
                items = _apply(change, items, prices, self._limits)
            return items

        added = [change.add_item for change in request.changes if change.HasField("add_item")]
        return await self._change(request, request.user_id, apply, added)

    async def MergeCarts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.MergeCartsRequest, context: Context
    ) -> bytes:
        """Changes both carts in one transaction."""

        async def merge(tx: Transaction) -> WriteResult[None]:
            await self._store.lock(tx, [request.user_id, request.guest_user_id])
            guest, now = await self._store.read(tx, request.guest_user_id)
            emptied = await self._save(tx, guest, guest.with_items((), now))
            cart, _ = await self._store.read(tx, request.user_id)
            merged = await self._save(tx, cart, cart.with_items(cart_items.merge(cart.items, guest.items, self._limits), now))
            return WriteResult(make_entry(merged), [_change_of(row) for row in (merged, emptied) if row.version])

        return await self._writer.write(self._carts, request, merge)

    async def _save(self, tx: Transaction, read: CartRow, cart: CartRow) -> CartRow:
        """Saves a cart if its lines changed, and returns it with its version."""
        return cart._replace(version=await self._store.save(tx, read, cart)) if cart.items != read.items else read

    async def ListAbandonedCarts(
        self, request: pb.ListAbandonedCartsRequest, context: Context
    ) -> pb.ListAbandonedCartsResponse:
        """Reads one cart more than the page has, to know whether there is another page. All pages look back from one moment."""
        size = pages.size(request.page_size)
        listing = f"abandoned {request.idle_for.ToNanoseconds()}"
        before, *after = pages.place(request.page_token, listing, micros_from, micros_from, str) or [None]
        seconds = request.idle_for.ToNanoseconds() / 1e9
        before, found = await self._store.list_idle(
            seconds, before=before, after=after, limit=size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, size, rows.skip_unreadable(make_message, self._carts))
        newest = max((row.version for row in page.rows), default=0)
        return pb.ListAbandonedCartsResponse(
            carts=page.messages,
            next_page_token="" if page.is_last else pages.token(_place_after(page.rows[-1], before), listing),
            cache=metadata(Answer(None, Source.STORE, newest, 0.0, stale=False)),
        )

    async def WatchCart(self, request: pb.WatchCartRequest, context: Context) -> AsyncIterator[pb.WatchCartResponse]:
        """Reads the cart again when it changed; several changes while the caller is not ready are one message."""
        sent = -1
        async for version in self._changes.versions(DATASET, request.user_id):
            answer = await self._carts.get(request.user_id)
            if answer.version < version:
                answer = await self._carts.get(request.user_id, _FROM_STORE)
            if answer.version != sent:
                sent = answer.version
                yield pb.WatchCartResponse.FromString(_reply(request.user_id, answer))

    async def _change(self, request: Mutation, user_id: str, rule: Rule, lines: Iterable[CartItem] = ()) -> bytes:
        """Applies a rule to the lines of a cart, and replies with the cart as it is then; `lines` may lack prices.

        Optimistic, unless prices are read, which is then a step of the same transaction: that is two statements instead of
        four, and two changes of one cart rarely meet.
        """
        unpriced = list(dict.fromkeys(line.product_id for line in lines if not line.HasField("unit_price")))
        # Not inside of the write: that would hold a connection, and the guard of one database would count failures of another.
        elsewhere = await self._products.prices(unpriced) if unpriced and not self._has_products else []

        async def change(tx: Transaction) -> WriteResult[None]:
            read, now = await self._store.read(tx, user_id)
            found = await self._products.prices_within(tx, unpriced) if unpriced and self._has_products else elsewhere
            by_id = {row.product_id: row for row in found}
            filled = [_price_of(id, by_id.get(id)) for id in unpriced]
            cart = read.with_items(rule(read, {price.product_id: price.unit_price for price in filled}), now)
            prices = pb.AddCartItemResponse(catalogue_prices=filled).SerializeToString() if filled else b""
            if cart.items == read.items:
                return WriteResult(prices + make_entry(read), [_change_of(read)] if read.version else [])
            # Every reply to a change has the cart in the field that it has in GetCartResponse, and prices in one other field:
            # the same bytes as the entry, after the prices.
            entry = _make_versioned_entry(cart)
            reply = VersionedReply(prices + entry.head)
            self._bound.check_resource(len(reply.head) + VERSION_DIGITS)  # before the statement that may commit by itself
            version = await self._store.save(tx, read, cart, reply)
            return WriteResult(reply.complete(version), [RowChange(user_id, version, entry.complete(version))])

        return await self._writer.write(self._carts, request, change, optimistic=not unpriced)


def loader(store: CartStore) -> Load:
    """Returns the function that loads carts for the dataset."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.user_id: rows.read(row, _to_row) for row in await store.load(ids)}

    return load


def _to_row(row: CartRow) -> Row:
    return Row(row.version, make_entry(row))


def make_entry(row: CartRow) -> bytes:
    """Returns what caches keep of a cart: the reply of GetCart, without its metadata."""
    return pb.GetCartResponse(cart=make_message(row)).SerializeToString()


def is_entry(id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of this user's cart: its message alone, as replies are put together from them."""
    entry = wire.parse(pb.GetCartResponse, value)
    return entry is not None and entry.cart.user_id == id and wire.has_only(entry, "cart")


def is_same_entry(one: bytes, other: bytes) -> bool:
    """Whether two entries are the same message, however it is encoded."""
    return one == other or pb.GetCartResponse.FromString(one) == pb.GetCartResponse.FromString(other)


def make_message(row: CartRow) -> Cart:
    """Returns a row as callers see it. Raises InvalidRequest when a total is more than Money holds."""
    return Cart(
        user_id=row.user_id,
        items=map(_line, row.items),
        totals=cart_items.totals(row.items),
        create_time=optional_timestamp(row.create_time),
        update_time=optional_timestamp(row.update_time),
        etag=_etag(row),
    )


def _reply(user_id: str, answer: Answer) -> bytes:
    value = make_entry(CartRow(user_id)) if answer.value is None else answer.value
    return value + pb.GetCartResponse(cache=metadata(answer)).SerializeToString()


def _change_of(row: CartRow) -> RowChange:
    return RowChange(row.user_id, row.version, make_entry(row))


def _make_versioned_entry(row: CartRow) -> VersionedReply:
    """Returns the entry of a cart whose version is not known yet: its etag, which is the version, comes last."""
    cart = make_message(row)
    cart.ClearField("etag")
    entry = field(pb.GetCartResponse.CART_FIELD_NUMBER, cart.SerializeToString(), _ETAG_PLACEHOLDER)
    return VersionedReply(entry[:-VERSION_DIGITS])


def _line(item: Item) -> CartItem:
    price = Money(units=item.price_units, nanos=item.price_nanos, currency_code=item.currency_code)
    return CartItem(product_id=item.product_id, quantity=item.quantity, unit_price=price, options=item.options)


def _price_of(product_id: str, row: PriceRow | None) -> CataloguePrice:
    """Returns what a product costs. Raises NotFound if it is not sold, and DataLoss for a price that no cart can have."""
    if row is None or not row.active:
        raise NotFound("product" if row is None else "active product", product_id)
    return rows.read_alone(row, _make_price, resource="product", id=product_id)


def _make_price(row: PriceRow) -> CataloguePrice:
    price = Money(units=row.price_units, nanos=row.price_nanos, currency_code=row.currency_code)
    validate(CartItem(product_id=row.product_id, quantity=1, unit_price=price))
    return CataloguePrice(product_id=row.product_id, unit_price=price, product_etag=etag_of(row.version))


def _item(line: CartItem, prices: Prices) -> Item:
    price = line.unit_price if line.HasField("unit_price") else prices[line.product_id]
    return Item(line.product_id, line.quantity, price.units, price.nanos, price.currency_code, dict(line.options))


def _apply(change: CartChange, items: Items, prices: Prices, limits: Limits) -> Items:
    match change.WhichOneof("change"):
        case "add_item":
            return cart_items.add(items, _item(change.add_item, prices), limits)
        case "set_item_quantity":
            line = change.set_item_quantity
            return cart_items.set_quantity(items, line.product_id, dict(line.options), line.quantity, limits)
        case _:
            return cart_items.remove(items, change.remove_item.product_id, dict(change.remove_item.options))


def _etag(row: CartRow) -> str:
    return f"{row.version:0{VERSION_DIGITS}x}" if row.version else "0"


def _check_etag(current: CartRow, given: str) -> None:
    if given and given != _etag(current):
        cart = make_message(current)
        details = (cart,) if cart.ByteSize() <= MAX_IN_DETAILS else ()
        raise EtagMismatch("cart", current.user_id, _etag(current), details=details)


def _place_after(last: CartRow, before: Micros) -> str:
    """Returns where the next page starts: the moment that all pages look back from, then the last cart's update and user_id."""
    return f"{before.value} {micros(last.update_time).value} {last.user_id}"
