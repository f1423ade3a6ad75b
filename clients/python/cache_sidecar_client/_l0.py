"""L0: products in the client's own memory, which a watch keeps up to date.

A product is returned only while the watch is connected, and only as long as `max_age` after it was known to match PostgreSQL.
It is stored only if no change is known that its content may lack, and dropped when a change is heard of. So it is never
older than what the sidecar would return plus the time that a change takes through the stream. While the stream is broken, it
is empty.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from cache_sidecar_client.models import Cache, Product, ProductChange
from cache_sidecar_client.options import L0


class ProductMemory:
    """The entries of L0. Every method may be called by any thread."""

    def __init__(self, options: L0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age = options.max_age
        self._max_entries = options.max_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[Product, Cache, float]] = OrderedDict()
        "The time is when the content was known to match PostgreSQL."
        self._changes: OrderedDict[str, tuple[int, float]] = OrderedDict()
        "The newest version of products that have changed, and when that was heard."
        self._forgotten = 0.0
        "Of changes that were heard until this time, some are no longer in `_changes`."
        self._connected_at: float | None = None
        self.hits = 0

    def get(self, product_id: str, max_age: float | None) -> Product | None:
        """Returns a product that is at most `max_age` seconds old; None if there is none."""
        entry = self._entries.get(product_id)
        if entry is None:
            return None
        product, cache, matched_at = entry
        age = self._clock() - matched_at
        # Whoever drops entries does so before the change is handed on, so one that was read here needs no lock.
        if age > self._max_age or (max_age is not None and age > max_age):
            return None
        self.hits += 1
        return Product(product.message, Cache("L0", cache.version, age, False))

    def begin(self) -> float:
        """Returns the time to give to `put` after a read that begins now."""
        return self._clock()

    def put(self, product_id: str, product: Product, began: float) -> None:
        """Stores what a read has returned, if it lacks no change that was heard."""
        cache = product.cache
        if cache is None or cache.stale:
            return
        # The age is that at the sidecar, at some time during the read: so it counts from its beginning.
        matched_at = began - cache.age
        with self._lock:
            if self._connected_at is None or matched_at < self._forgotten or began < self._connected_at:
                return
            if product_id in self._changes:
                version, heard_at = self._changes[product_id]
                if cache.version < version and matched_at <= heard_at:
                    return
            held = self._entries.get(product_id)
            if held is not None and held[1].version > cache.version:
                return
            self._entries[product_id] = (product, cache, matched_at)
            self._entries.move_to_end(product_id)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def on_change(self, change: ProductChange) -> None:
        """Drops what a change made old; `missed` ones, everything."""
        with self._lock:
            now = self._clock()
            if change.kind == "WATCH_STARTED":
                # What a read from before the watch returns may lack a change that the watch does not tell.
                self._entries.clear()
                self._connected_at = now
                return
            self._changes[change.product_id] = (change.version, now)
            self._changes.move_to_end(change.product_id)
            if len(self._changes) > self._max_entries:
                self._forgotten = self._changes.popitem(last=False)[1][1]
            held = self._entries.get(change.product_id)
            if held is not None and held[1].version < change.version:
                del self._entries[change.product_id]

    def drop(self, product_id: str) -> None:
        """Drops a product that this client has deleted."""
        with self._lock:
            self._entries.pop(product_id, None)

    def on_break(self) -> None:
        """Drops everything, until the watch is connected again."""
        with self._lock:
            self._connected_at = None
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
