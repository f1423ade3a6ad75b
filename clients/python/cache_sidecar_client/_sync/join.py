"""Joins the `products.get` calls of several threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from cache_sidecar_client.models import Product
from cache_sidecar_client.options import Options

MAX_BATCH = 500
Group = tuple[float | None, bool, float | None]
"What the calls of a batch have in common: max_age, bypass, timeout."


class Joiner:
    """Calls that wait to be sent, grouped by what they require. The first thread of a group sends it, after a short window."""

    def __init__(self, options: Options, fetch: Callable[[Sequence[str], Group], dict[str, Product | Exception]]) -> None:
        """`fetch` reads several products that have the same requirements; errors of single ones are values."""
        self._fetch = fetch
        self._window = options.join_window
        self._lock = threading.Lock()
        self._waiting: dict[Group, tuple[dict[str, Future[Product]], threading.Event]] = {}

    def get(self, product_id: str, group: Group) -> Product:
        """Returns a product, read together with those that other threads ask for within the window."""
        with self._lock:
            leads = group not in self._waiting
            waiting, is_full = self._waiting.setdefault(group, ({}, threading.Event()))
            future = waiting.get(product_id)
            if future is None:
                future = waiting[product_id] = Future()
            if len(waiting) >= MAX_BATCH:
                del self._waiting[group]
                is_full.set()
        if leads:
            is_full.wait(self._window)
            with self._lock:
                if self._waiting.get(group, (None, None))[0] is waiting:
                    del self._waiting[group]
            self._run(waiting, group)
        return future.result()

    def _run(self, waiting: "dict[str, Future[Product]]", group: Group) -> None:
        try:
            results = self._fetch(list(waiting), group)
        except BaseException as error:
            for future in waiting.values():
                future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for product_id, future in waiting.items():
            result = results[product_id]
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
