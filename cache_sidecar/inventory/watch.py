"""WatchInventory: the stock of products as it is, then each change, for any number of watchers.

Redis announces which row changed; what it changed to is read when the watcher is ready for it. So nothing queues up but the
ids that have news, each once, however slowly somebody reads. Where announcements may be missing, everything is read again:
when the connection that hears them says so, and, while there is none, every second.
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
# Rows with news that a watcher remembers; with more it reads all of its products again.
MAX_PENDING = 10_000
# Seconds between two looks while announcements are not heard, and after a failure.
POLL = 1.0
_FROM_STORE = Freshness(bypass=True)

State = tuple[str, ProductStock]


class Started(NamedTuple):
    """Where a watch starts: it tells every change after these states, which come first."""

    totals: Sequence[ProductStock]


class Watches:
    """Follows the rows of the inventory for all watchers of a sidecar; see `tiers.ports.InvalidationListener`."""

    def __init__(self, stocks: StockReader, store: InventoryStore) -> None:
        self._stocks = stocks
        self._store = store
        self._watchers: set[Watcher] = set()
        self._untrusted = set(range(PARTITIONS))

    async def watch(self, product_ids: Collection[str], categories: Sequence[str]) -> AsyncIterator[Started | State]:
        """Yields where it starts, then the stock of products, and of all products of categories, each time it is news.

        Raises TierFailed or Overloaded when even the first look fails; later ones are repeated until they succeed.
        """
        watcher = Watcher(product_ids, categories, stocks=self._stocks, store=self._store)
        self._watchers.add(watcher)
        try:
            first = [state async for state in watcher.look()]
            yield Started([total for _, total in first])
            for state in first:
                yield state
            while True:
                await watcher.news(seconds=POLL if self._untrusted else None)
                try:
                    async for state in watcher.look():
                        yield state
                except (TierFailed, Overloaded):
                    watcher.look_at_all()  # what failed has said why
                    await asyncio.sleep(POLL)
        finally:
            self._watchers.discard(watcher)

    def changed(self, id: str, version: int) -> None:
        """A row has a new version; 0 when it is only to be read again."""
        for watcher in self._watchers:
            watcher.changed(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed; the rows of one product are in any."""
        for watcher in self._watchers:
            watcher.look_at_all()

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told; since when matters to nobody here."""
        if trusted:
            self._untrusted.discard(partition)
            return
        self._untrusted.add(partition)
        for watcher in self._watchers:
            watcher.look_at_all()


class Watcher:
    """One watcher: what it wants, what it was sent, and what it has yet to look at."""

    def __init__(
        self, product_ids: Collection[str], categories: Sequence[str], *, stocks: StockReader, store: InventoryStore
    ) -> None:
        self._product_ids = dict.fromkeys(product_ids)
        self._categories = categories
        self._stocks = stocks
        self._store = store
        self._all = True
        self._pending: dict[str, int] = {}
        "Rows that have news, each with the newest version announced."
        self._news = asyncio.Event()
        self._sent: dict[str, ProductStock] = {}

    def changed(self, id: str, version: int) -> None:
        """A row has a new version."""
        if not self._categories and product_of(id) not in self._product_ids:
            return
        if len(self._pending) >= MAX_PENDING and id not in self._pending:
            self.look_at_all()
        if not self._all:
            self._pending[id] = max(version, self._pending.get(id, 0))
            self._news.set()

    def look_at_all(self) -> None:
        """Every product may have changed."""
        self._all = True
        self._pending.clear()
        self._news.set()

    async def news(self, *, seconds: float | None) -> None:
        """Returns when there is something to look at; after so many seconds that is everything."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            self.look_at_all()

    async def look(self) -> AsyncIterator[State]:
        """Yields what is news among the products there is something to look at."""
        self._news.clear()
        if self._all:
            # What is announced from here on is looked at again.
            self._all = False
            async for product_ids in self._everything():
                for state in await self._read(product_ids, {}):
                    yield state
        while self._pending and not self._all:
            page = {id: self._pending.pop(id) for id in list(self._pending)[:PAGE]}
            for state in await self._read(await self._wanted(dict.fromkeys(map(product_of, page))), page):
                yield state

    async def _everything(self) -> AsyncIterator[Sequence[str]]:
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

    async def _wanted(self, product_ids: Collection[str]) -> Collection[str]:
        """Returns those of the products that are watched: who was once in one of the categories stays so."""
        unknown = [id for id in product_ids if id not in self._product_ids and id not in self._sent]
        if not unknown:
            return product_ids
        members = await self._store.of_categories(unknown, self._categories)
        return [id for id in product_ids if id in members or id not in unknown]

    async def _read(self, product_ids: Collection[str], announced: Mapping[str, int]) -> list[State]:
        """Returns what is news among products, by version; none whose rows are older than the versions announced of them."""
        totals = await self._stocks.get_many(product_ids)
        versions = {part.id: part.version for total in totals.values() for part in total.parts}
        # A row that is not among them is one that is gone, or that what was read does not know of yet.
        behind = {product_of(id) for id, version in announced.items() if versions.get(id, 0) < version} & totals.keys()
        if behind:
            totals |= await self._stocks.get_many(behind, _FROM_STORE)
        news = []
        for id, total in totals.items():
            sent = self._sent.get(id)
            if _is_news(total, sent):
                if sent is not None and not total.parts:
                    # PostgreSQL says nothing of what is gone. A stock that is made anew begins above this.
                    total = total._replace(least_version=sent.version + 1)  # noqa: PLW2901
                news.append((id, total))
        self._sent.update(news)
        return sorted(news, key=lambda state: state[1].version)


def _is_news(total: ProductStock, sent: ProductStock | None) -> bool:
    if sent is None:
        return True
    return total.version > sent.version if total.parts else bool(sent.parts)


def _pages(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), PAGE):
        yield ids[start : start + PAGE]
