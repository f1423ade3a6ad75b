"""Joins the `products.get` calls of one turn of the event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cache_sidecar_client.models import Product
from cache_sidecar_client.options import Options

MAX_BATCH = 500
Group = tuple[float | None, bool, float | None]
"What the calls of a batch have in common: max_age, bypass, timeout."


class Joiner:
    """Calls that have begun in this turn of the event loop, grouped by what they require."""

    def __init__(
        self, options: Options, fetch: Callable[[Sequence[str], Group], Awaitable[dict[str, Product | Exception]]]
    ) -> None:
        """`fetch` reads several products that have the same requirements; errors of single ones are values."""
        del options  # here the turn of the event loop is the window
        self._fetch = fetch
        self._waiting: dict[Group, dict[str, asyncio.Future[Product]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, product_id: str, group: Group) -> Product:
        """Returns a product, read together with those that others ask for in this turn."""
        waiting = self._waiting.get(group)
        if waiting is None:
            waiting = self._waiting[group] = {}
            asyncio.get_running_loop().call_soon(self._flush, group)
        future = waiting.get(product_id)
        if future is None:
            future = waiting[product_id] = asyncio.get_running_loop().create_future()
            if len(waiting) >= MAX_BATCH:
                self._flush(group)
        # A caller that is cancelled must not take the result from the others.
        return await asyncio.shield(future)

    def _flush(self, group: Group) -> None:
        if waiting := self._waiting.pop(group, None):
            task = asyncio.get_running_loop().create_task(self._run(waiting, group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, waiting: "dict[str, asyncio.Future[Product]]", group: Group) -> None:
        try:
            results = await self._fetch(list(waiting), group)
        except BaseException as error:
            for future in waiting.values():
                if isinstance(error, asyncio.CancelledError):
                    future.cancel()
                else:
                    _fail(future, error)
            if not isinstance(error, Exception):
                raise
            return
        for product_id, future in waiting.items():
            result = results[product_id]
            if isinstance(result, Exception):
                _fail(future, result)
            elif not future.done():
                future.set_result(result)


def _fail(future: "asyncio.Future[Product]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as seen: its callers may have been cancelled
