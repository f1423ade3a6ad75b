"""Carts."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Self

from cache_sidecar_client import _methods, values
from cache_sidecar_client._async.caller import Caller, resume_after
from cache_sidecar_client.errors import EtagMismatch, SidecarError, Unavailable
from cache_sidecar_client.models import Cart, CartItem, cache_of, read_options
from cache_sidecar_client.v1 import cart_pb2, cart_service_pb2
from cache_sidecar_client.values import Money

Options = Mapping[str, str]


class Carts:
    """Reads and changes carts."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(
        self, user_id: str, *, max_age: float | None = None, bypass: bool = False, timeout: float | None = None
    ) -> Cart:
        """Returns the cart of a user; an empty one if the user has none."""
        request = cart_service_pb2.GetCartRequest(user_id=user_id, options=read_options(max_age, bypass))
        reply = await self._caller.call(_methods.GET_CART, request, timeout)
        return Cart(reply.cart, cache_of(reply.cache))

    async def replace(
        self,
        user_id: str,
        items: Sequence[CartItem],
        *,
        etag: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Cart:
        """Replaces all items. Raises EtagMismatch if `etag` is given and is not the current one."""
        request = cart_service_pb2.ReplaceCartRequest(request_id=request_id)
        request.cart.user_id, request.cart.etag = user_id, etag
        request.cart.items.extend(item.message for item in items)
        reply = await self._caller.call(_methods.REPLACE_CART, request, timeout)
        return Cart(reply.cart, catalogue_prices=reply.catalogue_prices)

    async def modify(
        self,
        user_id: str,
        change: Callable[[Cart], Sequence[CartItem]],
        *,
        attempts: int = 5,
        timeout: float | None = None,
    ) -> Cart:
        """Reads a cart, asks `change` for its new items, and replaces them if nobody has changed the cart meanwhile.

        Otherwise it begins again with the present cart: `change` is called up to `attempts` times and must have no other
        effect. Raises EtagMismatch after the last one.
        """
        cart = await self.get(user_id, timeout=timeout)
        while True:
            attempts -= 1
            try:
                return await self.replace(user_id, change(cart), etag=cart.etag, timeout=timeout)
            except EtagMismatch as error:
                if attempts <= 0:
                    raise
                current = error.current_cart
            cart = Cart(current) if current is not None else await self.get(user_id, bypass=True, timeout=timeout)

    async def add(
        self,
        user_id: str,
        product_id: str,
        quantity: int,
        price: Money | str | None = None,
        *,
        options: Options | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Cart:
        """Adds pieces of a product, at a price per piece such as `9.99 EUR`; without one, at that of the catalogue.

        Without a price, raises NotFound if the catalogue has no such product, or it is not active.
        """
        item = CartItem.of(product_id, quantity, price, options).message
        request = cart_service_pb2.AddCartItemRequest(user_id=user_id, item=item, request_id=request_id)
        reply = await self._caller.call(_methods.ADD_CART_ITEM, request, timeout)
        return Cart(reply.cart, catalogue_prices=reply.catalogue_prices)

    async def set_quantity(
        self,
        user_id: str,
        product_id: str,
        quantity: int,
        *,
        options: Options | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Cart:
        """Sets the quantity of an item; 0 removes it. Raises NotFound if the cart has no such item."""
        request = cart_service_pb2.SetCartItemQuantityRequest(
            user_id=user_id, product_id=product_id, options=options, quantity=quantity, request_id=request_id
        )
        reply = await self._caller.call(_methods.SET_CART_ITEM_QUANTITY, request, timeout)
        return Cart(reply.cart)

    async def remove(
        self,
        user_id: str,
        product_id: str,
        *,
        options: Options | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Cart:
        """Removes an item, if the cart has it."""
        request = cart_service_pb2.RemoveCartItemRequest(
            user_id=user_id, product_id=product_id, options=options, request_id=request_id
        )
        reply = await self._caller.call(_methods.REMOVE_CART_ITEM, request, timeout)
        return Cart(reply.cart)

    async def clear(self, user_id: str, *, request_id: str = "", timeout: float | None = None) -> Cart:
        """Removes all items."""
        request = cart_service_pb2.ClearCartRequest(user_id=user_id, request_id=request_id)
        reply = await self._caller.call(_methods.CLEAR_CART, request, timeout)
        return Cart(reply.cart)

    async def merge(self, user_id: str, guest_user_id: str, *, request_id: str = "", timeout: float | None = None) -> Cart:
        """Moves all items of a guest's cart to a user's cart: at login."""
        request = cart_service_pb2.MergeCartsRequest(user_id=user_id, guest_user_id=guest_user_id, request_id=request_id)
        reply = await self._caller.call(_methods.MERGE_CARTS, request, timeout)
        return Cart(reply.cart)

    def edit(self, user_id: str, *, request_id: str = "", timeout: float | None = None) -> "CartEdit":
        """Collects changes, and makes all of them, or none, at the end of the block.

            async with shop.carts.edit("user-1") as cart:
                cart.add("SKU-1", 2, "9.99 EUR")
                cart.remove("SKU-2")
            cart.result.totals

        An exception inside the block makes none of them.
        """
        return CartEdit(self._caller, user_id, request_id, timeout)

    async def list_abandoned(
        self, idle_for: timedelta | float, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[Cart, None]:
        """Yields the carts that have items and have not changed for this long, in seconds or as a timedelta."""
        request = cart_service_pb2.ListAbandonedCartsRequest(idle_for=values.duration_fields(idle_for), page_size=page_size)
        while True:
            reply = await self._caller.call(_methods.LIST_ABANDONED_CARTS, request, timeout)
            for message in reply.carts:
                yield Cart(message, cache_of(reply.cache))
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def watch(self, user_id: str) -> AsyncGenerator[Cart, None]:
        """Yields the cart as it is, then after each change, and goes on after the connection was lost.

        Each is the latest state: a slow reader, and one whose connection was lost (`missed`), does not see those in
        between. Ends only when the generator or the client is closed.
        """
        request = cart_service_pb2.WatchCartRequest(user_id=user_id)
        began = missed = False
        repeats = 0
        while True:
            try:
                async with aclosing(self._caller.stream(_methods.WATCH_CART, request)) as replies:
                    async for reply in replies:
                        yield Cart(reply.cart, cache_of(reply.cache), missed=missed)
                        began, missed, repeats = True, False, 0
                failure: SidecarError = Unavailable("the stream has ended")
            except SidecarError as error:
                failure = error
            missed = began
            await resume_after(self._caller, failure, repeats)
            repeats += 1


class CartEdit:
    """Changes of one cart that are made at once: see `Carts.edit`."""

    def __init__(self, caller: Caller, user_id: str, request_id: str, timeout: float | None) -> None:
        self._caller = caller
        self._request = cart_service_pb2.ApplyCartChangesRequest(user_id=user_id, request_id=request_id)
        self._timeout = timeout
        self._result: Cart | None = None
        self._is_used = False

    @property
    def result(self) -> Cart | None:
        """The cart after the block; None if there was nothing to change."""
        return self._result

    def add(self, product_id: str, quantity: int, price: Money | str | None = None, *, options: Options | None = None) -> Self:
        """Adds pieces of a product, at a price per piece such as `9.99 EUR`; without one, at that of the catalogue."""
        item = CartItem.of(product_id, quantity, price, options).message
        self._request.changes.append(cart_pb2.CartChange(add_item=item))
        return self

    def set_quantity(self, product_id: str, quantity: int, *, options: Options | None = None) -> Self:
        """Sets the quantity of an item; 0 removes it. The whole edit raises NotFound if the cart has no such item."""
        change = self._request.changes.add().set_item_quantity
        change.product_id, change.quantity = product_id, quantity
        change.options.update(options or {})
        return self

    def remove(self, product_id: str, *, options: Options | None = None) -> Self:
        """Removes an item, if the cart has it."""
        change = self._request.changes.add().remove_item
        change.product_id = product_id
        change.options.update(options or {})
        return self

    async def __aenter__(self) -> Self:
        if self._is_used:
            raise RuntimeError("this edit was made before: take another one of `carts.edit`")
        self._is_used = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._request.changes:
            reply = await self._caller.call(_methods.APPLY_CART_CHANGES, self._request, self._timeout)
            self._result = Cart(reply.cart, catalogue_prices=reply.catalogue_prices)
