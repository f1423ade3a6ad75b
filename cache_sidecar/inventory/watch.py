"""WatchInventory: the inventory of products as it is, then each change, for any number of watchers.

Redis announces which row changed; its content is read when the watcher is ready for it. So only ids are queued, each once,
however slowly a watcher reads. When announcements may have been missed, everything is read again: after each gap in the
subscription, and every second while there is none.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.inventory.stock import ProductStock, StockReader
from cache_sidecar.store.inventory import InventoryStore, product_of
from cache_sidecar.tiers.ports import PARTITIONS, Freshness

# Products read at once.
PAGE = 500
# Changed rows that a watcher queues; with more it reads all of its products again.
MAX_PENDING = 10_000
# Seconds between two reads while there is no subscription, and after a failure.
POLL = 1.0
_FROM_STORE = Freshness(bypass=True)

State = tuple[str, ProductStock]


class Started(NamedTuple):
    """Where a watch starts: these states follow, then every change after them."""

    totals: Sequence[ProductStock]


class Watches:
    """Follows the rows of the inventory for all watchers of a sidecar; see `tiers.ports.InvalidationListener`."""

    def __init__(self, reader: StockReader, store: InventoryStore) -> None:
        self._reader = reader
        self._store = store
        self._watchers: set[Watcher] = set()
        self._untrusted = set(range(PARTITIONS))

    async def watch(self, product_ids: Collection[str], categories: Sequence[str]) -> AsyncIterator[Started | State]:
        """Yields where it starts, then the inventory of the products, and of all products in the categories, when it changed.

        Raises TierFailed or Overloaded when the first read fails; later ones are repeated until they succeed.
        """
        watcher = Watcher(product_ids, categories, reader=self._reader, store=self._store)
        self._watchers.add(watcher)
        try:
            first = [state async for state in watcher.read_news()]
            yield Started([stock for _, stock in first])
            for state in first:
                yield state
            while True:
                await watcher.wait(seconds=POLL if self._untrusted else None)
                try:
                    async for state in watcher.read_news():
                        yield state
                except (TierFailed, Overloaded):
                    watcher.reread_all()  # the failure was logged where it arose
                    await asyncio.sleep(POLL)
        finally:
            self._watchers.discard(watcher)

    def on_invalidate(self, id: str, version: int) -> None:
        """Notes that a row has a new version; 0 when it is only to be read again."""
        for watcher in self._watchers:
            watcher.add(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Has everything read again: the rows of one product are in any partition."""
        for watcher in self._watchers:
            watcher.reread_all()

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Notes whether every change in a partition is known to be announced; `late` does not matter here."""
        if trusted:
            self._untrusted.discard(partition)
            return
        self._untrusted.add(partition)
        for watcher in self._watchers:
            watcher.reread_all()


class Watcher:
    """One watcher: which products it watches, what it was sent, and what it has to read."""

    def __init__(
        self, product_ids: Collection[str], categories: Sequence[str], *, reader: StockReader, store: InventoryStore
    ) -> None:
        self._product_ids = dict.fromkeys(product_ids)
        self._categories = categories
        self._reader = reader
        self._store = store
        self._all = True
        self._pending: dict[str, int] = {}
        "Changed rows, with the newest version announced of each."
        self._has_news = asyncio.Event()
        self._sent: dict[str, ProductStock] = {}

    def add(self, id: str, version: int) -> None:
        """Queues a row that has a new version, if it may be one of a watched product."""
        if not self._categories and product_of(id) not in self._product_ids:
            return
        if len(self._pending) >= MAX_PENDING and id not in self._pending:
            self.reread_all()
        if not self._all:
            self._pending[id] = max(version, self._pending.get(id, 0))
            self._has_news.set()

    def reread_all(self) -> None:
        """Notes that every product may have changed."""
        self._all = True
        self._pending.clear()
        self._has_news.set()

    async def wait(self, *, seconds: float | None) -> None:
        """Returns when there is something to read; after so many seconds that is everything."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_news.wait()
        except TimeoutError:
            self.reread_all()

    async def read_news(self) -> AsyncIterator[State]:
        """Reads the products that may have changed, and yields the states that are new."""
        self._has_news.clear()
        if self._all:
            # Before the read: a change that is announced meanwhile may not be in it, and is read again.
            self._all = False
            async for product_ids in self._pages_of_all():
                for state in await self._read(product_ids, {}):
                    yield state
        while self._pending and not self._all:
            page = {id: self._pending.pop(id) for id in list(self._pending)[:PAGE]}
            for state in await self._read(await self._only_watched(dict.fromkeys(map(product_of, page))), page):
                yield state

    async def _pages_of_all(self) -> AsyncIterator[Sequence[str]]:
        for page in _pages(list(self._product_ids)):
            yield page
        after = ""
        while self._categories:
            members = await self._store.in_categories(self._categories, after=after, limit=PAGE)
            if fresh := [id for id in members if id not in self._product_ids]:
                yield fresh
            if len(members) < PAGE:
                return
            after = members[-1]

    async def _only_watched(self, product_ids: Collection[str]) -> Collection[str]:
        """Returns the products that are watched; a product that was once in one of the categories still is."""
        unknown = [id for id in product_ids if id not in self._product_ids and id not in self._sent]
        if not unknown:
            return product_ids
        members = await self._store.of_categories(unknown, self._categories)
        return [id for id in product_ids if id in members or id not in unknown]

    async def _read(self, product_ids: Collection[str], announced: Mapping[str, int]) -> list[State]:
        """Returns the new states of products, by version; none is older than the versions announced of its rows."""
        stocks = await self._reader.get_many(product_ids)
        versions = {part.id: part.version for stock in stocks.values() for part in stock.parts}
        # A row that was not read was deleted, or is so new that the caches do not have it yet.
        behind = {product_of(id) for id, version in announced.items() if versions.get(id, 0) < version} & stocks.keys()
        if behind:
            stocks |= await self._reader.get_many(behind, _FROM_STORE)
        news = []
        for id, stock in stocks.items():
            sent = self._sent.get(id)
            if _is_news(stock, sent):
                if sent is not None and not stock.parts:
                    # PostgreSQL has no version of a deletion. An inventory that is created again starts above this one.
                    stock = stock._replace(least_version=sent.version + 1)  # noqa: PLW2901
                news.append((id, stock))
        self._sent.update(news)
        return sorted(news, key=lambda state: state[1].version)


def _is_news(stock: ProductStock, sent: ProductStock | None) -> bool:
    if sent is None:
        return True
    return stock.version > sent.version if stock.parts else bool(sent.parts)


def _pages(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), PAGE):
        yield ids[start : start + PAGE]
