"""Clients that watch products, carts and stock, and resume when the stream breaks."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from cache_sidecar.v1 import cart_service_pb2, inventory_service_pb2, product_service_pb2
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.consistency.clients import carts, stock
from tests.consistency.load import Load
from tests.consistency.rules.streams import Stream

# Seconds before a broken stream is opened again; and, on average, until a watcher gives one up that is not broken.
AGAIN, GIVEN_UP = 0.2, 20.0


class Watcher:
    """Reads one stream after the other, until it is cancelled."""

    def __init__(self, stream: Stream, open: Callable[[], Any], take: Callable[[Any], None], chance: random.Random) -> None:
        self._stream = stream
        self._open = open
        self._take = take
        self._chance = chance

    async def run(self) -> None:
        """Watches."""
        while True:
            self._stream.resumed()
            messages = self._open()
            timer = asyncio.get_running_loop().call_later(self._chance.expovariate(1 / GIVEN_UP), messages.cancel)
            try:
                async for message in messages:
                    self._take(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    self._stream.cannot_resume(error.details() or "")
            except asyncio.CancelledError:
                if not messages.cancelled() or self._is_cancelled():
                    raise
            finally:
                timer.cancel()
                messages.cancel()
            await asyncio.sleep(AGAIN)

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0


def watchers(load: Load, channels: Mapping[int, grpc.aio.Channel], ids: Sequence[str], chance: random.Random) -> list[Watcher]:
    """Returns watchers of every kind, of every sidecar that is not idle."""
    found = []
    for sidecar in load.busy:
        channel = channels[sidecar]
        found += [
            _of_products(load, channel, ids, chance, name=f"products of {sidecar}"),
            _of_stock(load, channel, chance, name=f"stock of {sidecar}"),
            *(_of_cart(load, channel, cart, chance, name=f"cart {cart} of {sidecar}") for cart in (0, 1, 2)),
        ]
    return found


def _of_products(load: Load, channel: Any, ids: Sequence[str], chance: random.Random, *, name: str) -> Watcher:
    stub: Any = ProductServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = load.rules.stream("product", name, every=True)
    numbers = {id: number for number, id in enumerate(ids)}
    after = 0

    def open() -> Any:
        return stub.WatchProducts(product_service_pb2.WatchProductsRequest(after_version=after))

    def take(message: Any) -> None:
        nonlocal after
        after = message.version or after
        if message.product_id in numbers:
            stream.takes(numbers[message.product_id], message.version)

    return Watcher(stream, open, take, chance)


def _of_stock(load: Load, channel: Any, chance: random.Random, *, name: str) -> Watcher:
    stub: Any = InventoryServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = load.rules.stream("inventory", name)
    numbers = {stock.id_of(product): product for product in range(len(stock.STOCK))}

    def open() -> Any:
        return stub.WatchInventory(inventory_service_pb2.WatchInventoryRequest(product_ids=numbers))

    def take(message: Any) -> None:
        if message.product_id not in numbers:
            return  # the first message, which only says where the stream begins
        product, found = numbers[message.product_id], message.inventory
        stream.takes(product, message.cache.version)
        state = (found.available, found.reserved, found.bucket_count)
        load.rules.stock.is_state(product, message.cache.version, state)

    return Watcher(stream, open, take, chance)


def _of_cart(load: Load, channel: Any, cart: int, chance: random.Random, *, name: str) -> Watcher:
    stub: Any = CartServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = load.rules.stream("cart", name, keys=[cart])

    def open() -> Any:
        return stub.WatchCart(cart_service_pb2.WatchCartRequest(user_id=carts.user_of(cart)))

    def take(message: Any) -> None:
        if not message.HasField("cart"):
            return  # as above
        version = carts.version_of(message.cart)
        stream.takes(cart, version)
        load.rules.carts.is_state(cart, version, carts.state_of(message.cart))

    return Watcher(stream, open, take, chance)
