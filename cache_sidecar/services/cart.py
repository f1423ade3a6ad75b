"""CartService: what somebody is about to buy."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from cache_sidecar.core.errors import EtagMismatch, InvalidRequest
from cache_sidecar.services import cart_items
from cache_sidecar.services.cart_items import Items, Limits
from cache_sidecar.services.shared import pages, rows
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.freshness import metadata, wanted
from cache_sidecar.services.shared.wire import field
from cache_sidecar.services.shared.writes import Mutation, Writer
from cache_sidecar.store.cart import CartRow, CartStore, Change, Item
from cache_sidecar.store.pool import Connection, RowChange, WriteResult
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.store.values import Micros, micros, micros_from
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Freshness, Load, Row, Source, UnreadableRow
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
DATASET = "cart"
# Bytes of a cart that still fits into the details of a status, beside the rest of the trailers.
MAX_IN_DETAILS = 3000
_FROM_STORE = Freshness(bypass=True)
# The etag of a cart that was written has always as many characters, so that its length is known before it is.
_ETAG_SIZE = 16
_ETAG_LATER = field(Cart.ETAG_FIELD_NUMBER, b"0" * _ETAG_SIZE)


class CartService(CartServiceServicer):
    """Reads carts through the tiers, and has PostgreSQL decide what every change makes of them."""

    def __init__(
        self, carts: Dataset, *, store: CartStore, writer: Writer, changes: Changes, limits: Limits, bound: Bound
    ) -> None:
        self._carts = carts
        self._bound = bound
        self._store = store
        self._writer = writer
        self._changes = changes
        self._limits = limits

    async def GetCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCartRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended."""
        return _reply(request.user_id, await self._carts.get(request.user_id, wanted(request.options, context)))

    async def ReplaceCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReplaceCartRequest, context: Context
    ) -> bytes:
        """Compares the etag with the row as it is when it is locked."""
        items = cart_items.replaced(map(_item, request.cart.items), self._limits)

        def replace(current: CartRow) -> Items:
            _check_etag(current, request.cart.etag)
            return items

        return await self._change(request, request.cart.user_id, replace)

    async def AddCartItem(  # type: ignore[override]  # replies are serialized here
        self, request: pb.AddCartItemRequest, context: Context
    ) -> bytes:
        """Adds to the lines as they are when the row is locked."""
        item = _item(request.item)
        return await self._change(request, request.user_id, lambda cart: cart_items.add(cart.items, item, self._limits))

    async def SetCartItemQuantity(  # type: ignore[override]  # replies are serialized here
        self, request: pb.SetCartItemQuantityRequest, context: Context
    ) -> bytes:
        """Changes one line."""
        options = dict(request.options)

        def set_quantity(cart: CartRow) -> Items:
            return cart_items.set_quantity(cart.items, request.product_id, options, request.quantity, self._limits)

        return await self._change(request, request.user_id, set_quantity)

    async def RemoveCartItem(  # type: ignore[override]  # replies are serialized here
        self, request: pb.RemoveCartItemRequest, context: Context
    ) -> bytes:
        """Removes one line."""
        options = dict(request.options)
        return await self._change(
            request, request.user_id, lambda cart: cart_items.remove(cart.items, request.product_id, options)
        )

    async def ClearCart(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ClearCartRequest, context: Context
    ) -> bytes:
        """Removes every line."""
        return await self._change(request, request.user_id, lambda _: ())

    async def ApplyCartChanges(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ApplyCartChangesRequest, context: Context
    ) -> bytes:
        """Makes every change, or, when one is refused, none."""

        def apply(cart: CartRow) -> Items:
            items = cart.items
            for change in request.changes:
                items = _applied(change, items, self._limits)
            return items

        return await self._change(request, request.user_id, apply)

    async def MergeCarts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.MergeCartsRequest, context: Context
    ) -> bytes:
        """Changes both carts in one transaction."""

        async def merge(connection: Connection) -> WriteResult:
            await self._store.lock(connection, [request.user_id, request.guest_user_id])
            taken: list[Item] = []

            def empty(guest: CartRow) -> Items:
                taken.extend(guest.items)
                return ()

            guest = await self._store.change(connection, request.guest_user_id, empty)
            row = await self._store.change(
                connection, request.user_id, lambda cart: cart_items.merge(cart.items, taken, self._limits)
            )
            also = [RowChange(guest.user_id, guest.version, entry(guest))] if guest.version else []
            return _written(row)._replace(also=also)

        return await self._writer.write(self._carts, request, merge)

    async def ListAbandonedCarts(
        self, request: pb.ListAbandonedCartsRequest, context: Context
    ) -> pb.ListAbandonedCartsResponse:
        """Asks for one cart more than is wanted, to know whether there is another page. All pages look back from one moment."""
        size = pages.size(request.page_size)
        listing = f"abandoned {request.idle_for.ToNanoseconds()}"
        before, after = _place(pages.after(request.page_token, listing))
        seconds = request.idle_for.ToNanoseconds() / 1e9
        before, found = await self._store.idle(seconds, before=before, after=after, limit=size + 1, max_bytes=self._bound.room)
        page = self._bound.page(found, size, rows.readable(message, self._carts))
        newest = max((row.version for row in page.rows), default=0)
        return pb.ListAbandonedCartsResponse(
            carts=page.messages,
            next_page_token="" if page.is_last else pages.token(_place_of(before, page.rows[-1]), listing),
            cache=metadata(Answer(None, Source.STORE, newest, 0.0, stale=False)),
        )

    async def WatchCart(self, request: pb.WatchCartRequest, context: Context) -> AsyncIterator[pb.WatchCartResponse]:
        """Reads the cart anew when it changed; what happens while the caller is not ready for more counts once."""
        sent = -1
        async for version in self._changes.versions(DATASET, request.user_id):
            answer = await self._carts.get(request.user_id)
            if answer.version < version:
                answer = await self._carts.get(request.user_id, _FROM_STORE)
            if answer.version != sent:
                sent = answer.version
                yield pb.WatchCartResponse.FromString(_reply(request.user_id, answer))

    async def _change(self, request: Mutation, user_id: str, change: Change) -> bytes:
        async def work(connection: Connection) -> WriteResult:
            return _written(await self._store.change(connection, user_id, change))

        def beginning(row: CartRow) -> bytes:
            reply = _all_but_etag(row)
            self._bound.check_resource(len(reply) + _ETAG_SIZE)
            return reply

        async def at_once(connection: Connection, key: RequestKey) -> WriteResult | None:
            done = await self._store.change_at_once(connection, key, user_id, change, beginning)
            if done is None:
                return None
            version, reply = done
            return WriteResult(reply, user_id, version, reply)

        return await self._writer.write(self._carts, request, work, at_once)


def loader(store: CartStore) -> Load:
    """Returns what the dataset loads carts with."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.user_id: rows.read(row, _found) for row in await store.load(ids)}

    return load


def _found(row: CartRow) -> Row:
    return Row(row.version, entry(row))


def entry(row: CartRow) -> bytes:
    """Returns what caches keep of a cart: the reply of GetCart, without its metadata."""
    return pb.GetCartResponse(cart=message(row)).SerializeToString()


def same(one: bytes, other: bytes) -> bool:
    """Says whether two entries say the same, however they are written."""
    return one == other or pb.GetCartResponse.FromString(one) == pb.GetCartResponse.FromString(other)


def message(row: CartRow) -> Cart:
    """Returns a row as callers see it. Raises InvalidRequest when a total is more than Money holds."""
    return Cart(
        user_id=row.user_id,
        items=map(_line, row.items),
        totals=cart_items.totals(row.items),
        create_time=_timestamp(row.create_time),
        update_time=_timestamp(row.update_time),
        etag=_etag(row),
    )


def _reply(user_id: str, answer: Answer) -> bytes:
    value = entry(CartRow(user_id)) if answer.value is None else answer.value
    return value + pb.GetCartResponse(cache=metadata(answer)).SerializeToString()


def _written(row: CartRow) -> WriteResult:
    # Every reply to a change is one message, the cart, in the field where the reply of GetCart has it: the bytes are the same.
    bytes_ = entry(row)
    return WriteResult(bytes_, row.user_id, row.version, bytes_)


def _all_but_etag(row: CartRow) -> bytes:
    """Returns what becomes the entry of a cart, and the reply to its change, once the etag's characters are put behind it."""
    cart = message(row)
    cart.ClearField("etag")
    return field(pb.GetCartResponse.CART_FIELD_NUMBER, cart.SerializeToString(), _ETAG_LATER)[:-_ETAG_SIZE]


def _line(item: Item) -> CartItem:
    price = Money(units=item.price_units, nanos=item.price_nanos, currency_code=item.currency_code)
    return CartItem(product_id=item.product_id, quantity=item.quantity, unit_price=price, options=item.options)


def _item(line: CartItem) -> Item:
    price = line.unit_price
    return Item(line.product_id, line.quantity, price.units, price.nanos, price.currency_code, dict(line.options))


def _applied(change: CartChange, items: Items, limits: Limits) -> Items:
    match change.WhichOneof("change"):
        case "add_item":
            return cart_items.add(items, _item(change.add_item), limits)
        case "set_item_quantity":
            wish = change.set_item_quantity
            return cart_items.set_quantity(items, wish.product_id, dict(wish.options), wish.quantity, limits)
        case _:
            return cart_items.remove(items, change.remove_item.product_id, dict(change.remove_item.options))


def _etag(row: CartRow) -> str:
    return f"{row.version:0{_ETAG_SIZE}x}" if row.version else "0"


def _check_etag(current: CartRow, given: str) -> None:
    if given and given != _etag(current):
        cart = message(current)
        details = (cart,) if cart.ByteSize() <= MAX_IN_DETAILS else ()
        raise EtagMismatch("cart", current.user_id, _etag(current), details=details)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _place_of(before: Micros, last: CartRow) -> str:
    """Returns where a page ends: the moment the pages look back from, and the last cart's own."""
    return f"{before.value} {micros(last.update_time).value} {last.user_id}"


def _place(token: str) -> tuple[Micros | None, tuple[Micros, str] | None]:
    if not token:
        return None, None
    try:
        before, update_time, user_id = token.split(" ", 2)
        return micros_from(before), (micros_from(update_time), user_id)
    except ValueError:
        raise InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"}) from None
