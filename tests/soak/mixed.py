"""Calls of every kind: those of the outage tests, and batches, compressed calls, lists, changes and streams."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import grpc

from cache_sidecar.v1 import product_service_pb2 as products
from tests.failure.outages.load import CALLERS, CART, PATIENCE, PAUSES, WARM, Load
from tests.support.shop import product

BATCH, COMPRESSED, LIST, CHANGE, WATCH = "batches of warm reads", "compressed warm reads", "lists", "changes", "watch streams"
# Which kinds fail together: memory answers the first two, the others need PostgreSQL, like carts.
LIKE = {BATCH: WARM, COMPRESSED: WARM, LIST: CART, CHANGE: CART, WATCH: CART}
IDS = 50
# Products that are changed repeatedly; and seconds that a stream is read before another one is opened.
CHANGED, READ_FOR = 20, 5.0
_MASK = {"paths": ["title"]}


class Mixed(Load):
    """All of it, through one channel."""

    callers = CALLERS | {BATCH: 1, COMPRESSED: 1, LIST: 1, CHANGE: 1, WATCH: 2}
    pauses = PAUSES | {BATCH: 0.01, COMPRESSED: 0.01, LIST: 0.2, CHANGE: 0.05, WATCH: 0.2}

    def may_fail(self, kind: str, refuses: tuple[str, ...]) -> bool:
        """Returns whether an outage that refuses some kinds of calls may refuse this one."""
        return LIKE.get(kind, kind) in refuses

    def _work(self) -> dict[str, Callable[[asyncio.Event], Coroutine[Any, Any, None]]]:
        return super()._work() | {
            BATCH: self._repeated(BATCH, self._batch),
            COMPRESSED: self._repeated(COMPRESSED, self._compressed),
            LIST: self._repeated(LIST, self._list),
            CHANGE: self._repeated(CHANGE, self._change),
            WATCH: self._watch,
        }

    def _repeated(self, kind: str, call: Callable[[int], Any]) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
        async def repeat(stop: asyncio.Event) -> None:
            for number in count():
                if stop.is_set():
                    return
                await self._timed(kind, call(number))
                await asyncio.sleep(self.pauses[kind])

        return repeat

    def _batch(self, number: int) -> Any:
        first = number * 7 % len(self._warm)
        ids = [*self._warm, *self._warm][first : first + IDS]
        return self._products.BatchGetProducts(products.BatchGetProductsRequest(product_ids=ids), timeout=PATIENCE)

    def _compressed(self, number: int) -> Any:
        request = products.GetProductRequest(product_id=self._warm[number % len(self._warm)])
        return self._products.GetProduct(request, timeout=PATIENCE, compression=grpc.Compression.Gzip)

    def _list(self, number: int) -> Any:
        return self._products.ListProducts(products.ListProductsRequest(page_size=1 + number % 100), timeout=PATIENCE)

    async def _change(self, number: int) -> None:
        changed = product(f"changed-{number % CHANGED}", title=f"changed {number} times")
        try:
            await self._products.UpdateProduct(
                products.UpdateProductRequest(product=changed, update_mask=_MASK), timeout=PATIENCE
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            await self._products.CreateProduct(products.CreateProductRequest(product=changed), timeout=PATIENCE)

    async def _watch(self, stop: asyncio.Event) -> None:
        """Reads changes for some seconds, and cancels the stream."""
        while not stop.is_set():
            stream = self._products.WatchProducts(products.WatchProductsRequest(), timeout=PATIENCE)
            giving_up = asyncio.get_running_loop().call_later(READ_FOR, stream.cancel)
            try:
                while isinstance(await self._timed(WATCH, stream.read()), products.WatchProductsResponse):
                    if stop.is_set():
                        stream.cancel()
                        break
            except asyncio.CancelledError:
                if not stream.cancelled():
                    raise
            finally:
                giving_up.cancel()
            await asyncio.sleep(self.pauses[WATCH])
