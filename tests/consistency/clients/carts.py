"""Clients that fill carts, two tabs and more at once, through any sidecar."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import grpc

from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.cart_pb2 import Cart, CartItem
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from tests.consistency.load import Load, Outcome, read_of
from tests.consistency.rulebook import CARTS
from tests.consistency.rules.changes import Change
from tests.support.cart_model import lines_of
from tests.support.customers import item

DATASET = "cart"
# Products that are put into carts, and seconds that a client waits between two calls, on average.
PRODUCTS, PAUSE = 12, 0.12
# Of the calls, these are changes.
WRITES = 0.3
# A share of the changes goes to a few carts, so that tabs meet; the others are seldom changed twice in a failover.
CROWDED, CROWD = 0.3, 4


def user_of(cart: int) -> str:
    """Returns the cart's user_id."""
    return f"cart-{cart:03}"


class CartClient:
    """A tab of a browser, which shows one cart after the other."""

    def __init__(self, load: Load, channels: Mapping[int, grpc.aio.Channel], chance: random.Random) -> None:
        self._load = load
        self._chance = chance
        self._stubs: dict[int, Any] = {
            sidecar: CartServiceStub(channel)  # type: ignore[no-untyped-call]
            for sidecar, channel in channels.items()
        }
        self._methods = {
            name: [getattr(self._stubs[sidecar], name) for sidecar in sorted(channels)]
            for name in ("AddCartItem", "SetCartItemQuantity", "RemoveCartItem", "ClearCart", "ReplaceCart", "ApplyCartChanges")
        }

    async def run(self) -> None:
        """Calls until it is stopped."""
        chance, load = self._chance, self._load
        while await load.pause(chance.expovariate(1 / PAUSE)):
            if chance.random() < WRITES:
                cart = chance.randrange(CROWD if chance.random() < CROWDED else CARTS)
                await self._write(cart)
                load.carts.append(cart)
            elif load.carts:
                await self.read(chance.choice(load.carts), chance.choice(load.busy))

    async def read(self, cart: int, sidecar: int, *, bypass: bool = False) -> Outcome:
        """Reads a cart."""
        request = pb.GetCartRequest(user_id=user_of(cart), options=ReadOptions(bypass=True) if bypass else None)
        outcome = await self._load.call(DATASET, sidecar, self._stubs[sidecar].GetCart, request)
        if outcome.reply is not None:
            found, cache = outcome.reply.cart, outcome.reply.cache
            read = read_of(outcome, cart, version_of(found), cache, state_of(found))
            outcome.tally.took(stale=cache.stale, behind=self._load.rules.carts.read(read, replied=outcome.replied))
        return outcome

    async def stored(self, cart: int) -> Cart | None:
        """Returns a cart as PostgreSQL holds it; None when it cannot be read now."""
        reply = (await self.read(cart, self._load.busy[0], bypass=True)).reply
        return None if reply is None else reply.cart

    async def versions(self, sidecar: int) -> dict[int, int]:
        """Returns the version of every cart that a sidecar shows, and does not mark stale."""
        outcomes = await asyncio.gather(*(self.read(cart, sidecar) for cart in range(CARTS)))
        replies = {cart: outcome.reply for cart, outcome in enumerate(outcomes) if outcome.reply is not None}
        return {cart: version_of(reply.cart) for cart, reply in replies.items() if not reply.cache.stale}

    async def _write(self, cart: int) -> None:
        """Makes a change, then looks at the cart where it was made, and elsewhere."""
        load, rules, chance = self._load, self._load.rules, self._chance
        method, request, change = self._change(cart)
        streams = rules.begun(DATASET)
        rules.changes.begun(cart)
        outcome = await load.until_known(DATASET, self._methods[method], request, chance)
        if outcome.error is not None:
            rules.changes.refused(cart)
            return
        found, version = outcome.reply.cart, version_of(outcome.reply.cart)
        rules.changes.done(cart, version, change, lines_of(found))
        rules.carts.acknowledged(cart, version, **outcome.acknowledged())
        rules.carts.is_state(cart, version, state_of(found))
        for stream in streams:
            stream.acknowledged(cart, version)
        await asyncio.gather(*(self.read(cart, sidecar) for sidecar in load.busy))

    def _change(self, cart: int) -> tuple[str, Any, Change]:
        """Returns a method, a request, and what that does to a cart."""
        chance, user_id, request_id = self._chance, user_of(cart), str(uuid4())
        product = f"thing-{chance.randrange(PRODUCTS)}"
        line = item(product, chance.randint(1, 3))
        kind = chance.random()
        if kind < 0.5:
            return "AddCartItem", pb.AddCartItemRequest(user_id=user_id, item=line, request_id=request_id), _adds(line)
        if kind < 0.65:
            quantity = chance.randint(0, 5)
            setting = pb.SetCartItemQuantityRequest(
                user_id=user_id, product_id=product, quantity=quantity, request_id=request_id
            )
            return "SetCartItemQuantity", setting, lambda model: model.set_quantity(product, {}, quantity)
        if kind < 0.75:
            removing = pb.RemoveCartItemRequest(user_id=user_id, product_id=product, request_id=request_id)
            return "RemoveCartItem", removing, lambda model: model.remove(product, {})
        if kind < 0.8:
            clearing = pb.ClearCartRequest(user_id=user_id, request_id=request_id)
            return "ClearCart", clearing, lambda model: model.lines.clear()
        if kind < 0.9:
            other = item(f"thing-{chance.randrange(PRODUCTS)}", 1)
            several = pb.ApplyCartChangesRequest(
                user_id=user_id, changes=[{"add_item": line}, {"add_item": other}], request_id=request_id
            )
            return "ApplyCartChanges", several, lambda model: (_adds(line)(model), _adds(other)(model))
        replacing = pb.ReplaceCartRequest(cart=Cart(user_id=user_id, items=[line]), request_id=request_id)
        return "ReplaceCart", replacing, lambda model: (model.lines.clear(), model.add(line))


def _adds(line: CartItem) -> Change:
    return lambda model: model.add(line)


def version_of(cart: Cart) -> int:
    return int(cart.etag, 16)


def state_of(cart: Cart) -> int:
    return hash(tuple(lines_of(cart).items()))
