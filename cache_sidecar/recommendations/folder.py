"""Folds events into the model in PostgreSQL, and publishes the rows that sidecars read.

Events are read in the order of their positions, and are folded in at least once: what was not saved when a process ends is read
again. Changed rows and the position are saved in one transaction. A purchase also leaves its id, so that one that comes again
under another position counts once.

A purchase changes one row of a user, and hundreds of rows of products: the pairs of all that its user bought lately. So `show`
writes users' rows at once, and `save` those of products now and then. `show` also keeps what users' rows were at the saved
position, since that is where folding begins again: a history that has the purchase already would not count its pairs.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_sidecar.recommendations.model import PURCHASE, VIEW, Basket, Event, Item, Model, Totals, User, windows
from cache_sidecar.recommendations.rank import POPULAR
from cache_sidecar.recommendations.rows import ItemRow, Neighbour, item_row
from cache_sidecar.store.recommendation import Changes, ItemSums, ModelStore, Row, TotalsRow, as_stored

# Saved when this many events were folded in, or this many pairs and purchases are in memory, of some 100 bytes each. The more,
# the fewer rows are written again and again, and the more memory a relay needs that has much to catch up with.
EVENTS = 100_000
LOADED = 1_000_000
# Events for which rows are loaded together.
PAGE = 2_000
# Purchases, and rows to publish, after which other tasks of the process have a turn.
TURN = 20
# Users whose views are counted; above that, counting begins anew.
VIEWERS = 100_000
# Products whose rows are computed together.
PUBLISH = 1000
# Minimum seconds between two publications of a row.
PUBLISH_EVERY = 60.0


class Folder:
    """Folds events into the model of one database."""

    def __init__(self, store: ModelStore, *, renew_after_views: Callable[[], int] = lambda: 0) -> None:
        """`renew_after_views` returns after how many views a user's history is shown again, which renews lists; 0 for never."""
        self._store = store
        self._renew_after_views = renew_after_views
        self._views: Counter[str] = Counter()
        "Views by user since the last time; they begin anew with another process."
        self._saved: TotalsRow
        self._model: Model
        self._purchases: list[str] = []
        self._events = self._loaded = 0
        self._last_number = 0

    async def start(self) -> None:
        """Reads how far events are folded in. Must come first."""
        self._saved = await self._store.totals()
        self._last_number = await self._store.last_number()
        self._begin()

    @property
    def position(self) -> int:
        """The position after which to read events."""
        return self._model.totals.position

    @property
    def saved_position(self) -> int:
        """The position up to which events are saved."""
        return self._saved.position

    async def check(self) -> bool:
        """Returns whether the saved state is the one from which folding began; if not, drops what is in memory, see `save`."""
        found = await self._store.totals()
        if (found.position, found.erasures) == (self._saved.position, self._saved.erasures):
            return True
        await self.start()
        return False

    async def fold(self, events: Sequence[Event]) -> bool:
        """Folds in the next events: all that follow `position`, or the first of them. Saves when many are in memory.

        Returns False if saving was in vain, see `save`: the rest was not folded in.
        """
        for start in range(0, len(events), PAGE):
            await self._fold(events[start : start + PAGE])
            if (self._events >= EVENTS or self._loaded + self._model.new_pairs >= LOADED) and not await self.save():
                return False
        return True

    async def save(self) -> bool:
        """Saves what changed, and the position.

        Returns False when a user was erased meanwhile, or everything was cleared. Then what was in memory is dropped, as it may
        contain that user's history, and `position` is back at the last one that was saved.
        """
        model = self._model
        if model.totals.position == self._saved.position:
            return True
        totals = TotalsRow(
            model.totals.position,
            model.totals.time,
            model.totals.popularity,
            model.totals.customers,
            self._saved.erasures,
        )
        changes = Changes(
            totals,
            (_sums(model.items[product_id]) for product_id in sorted(model.changed_items)),
            ((user_id, _history(model.users[user_id])) for user_id in sorted(model.changed_users)),
            self._purchases,
        )
        if await self._store.save(changes, since=self._saved):
            self._saved = totals
            self._begin()
            return True
        await self.start()
        return False

    async def show(self) -> bool:
        """Saves the histories of users that changed, and nothing else: their lists have what was folded in from then on.

        Call it when all events were folded in: a history must not go back to before what was shown earlier. Returns False as
        `save` does.
        """
        model = self._model
        if not model.changed_users:
            return True
        histories = [(user_id, _history(model.users[user_id])) for user_id in sorted(model.changed_users)]
        if await self._store.show(histories, model.totals.time, since=self._saved):
            model.changed_users.clear()
            return True
        await self.start()
        return False

    async def publish(self, *, limit: int = PUBLISH, every: float = PUBLISH_EVERY) -> int:
        """Publishes rows whose best neighbours changed; each at most once in `every` seconds.

        Returns how many products were looked at: call it again at once if that is `limit`.
        """
        items = await self._store.stale_items(limit, published_before=every)
        await self._publish(items, exact=False)
        return len(items)

    async def publish_popular(self, *, every: float = PUBLISH_EVERY) -> None:
        """Publishes the most popular products if they changed; at most once in `every` seconds."""
        await self._store.publish_popular(POPULAR, published_before=every)

    async def refresh(self, after: int = 0, *, limit: int = PUBLISH) -> int:
        """Publishes the rows of products after a number, also those that differ in nothing but weights.

        What a row says changes with other products and with time, too, which `publish` does not see. Returns the last number,
        to go on after; 0 when there are no more products.
        """
        items = await self._store.items_after(after, limit)
        await self._publish(items, exact=True)
        if len(items) == limit:
            return items[-1].number
        await self._store.unpublish_unknown()
        return 0

    def _begin(self) -> None:
        self._model = Model(Totals(*self._saved[:4]))
        self._purchases = []
        self._events = self._loaded = 0

    async def _fold(self, events: Sequence[Event]) -> None:
        model = self._model
        events = [event for event in events if event.position > model.totals.position]
        if not events:
            return
        purchases = []
        known = await self._find_purchases(events)
        for event in events:
            if event.type == PURCHASE and event.event_id not in known:
                known.add(event.event_id)
                self._purchases.append(event.event_id)
                purchases.append(event)
        viewers = self._find_renewed(events)
        await self._load_users({event.user_id for event in purchases if event.user_id} | viewers)
        # Of others there is nothing to show: their lists expire.
        model.changed_users |= {user_id for user_id in viewers if model.users[user_id].baskets}
        await self._load_items({id for event in purchases for id in event.product_ids} | set(windows(purchases, model.users)))
        for count, event in enumerate(purchases, 1):
            model.buy(event)
            if count % TURN == 0:
                await asyncio.sleep(0)
        for event in events:
            model.move(event)
        self._events += len(events)

    def _find_renewed(self, events: Sequence[Event]) -> set[str]:
        """Counts views; returns the users who have had so many that their lists are to be made anew."""
        enough = self._renew_after_views()
        if not enough:
            return set()
        if len(self._views) > VIEWERS:
            self._views.clear()
        self._views.update(event.user_id for event in events if event.type == VIEW and event.user_id)
        renewed = {user_id for user_id in {event.user_id for event in events} if self._views[user_id] >= enough}
        for user_id in renewed:
            del self._views[user_id]
        return renewed

    async def _find_purchases(self, events: Sequence[Event]) -> set[str]:
        ids = [event.event_id for event in events if event.type == PURCHASE]
        return (await self._store.find_purchases(ids) if ids else set()).union(self._purchases)

    async def _load_users(self, user_ids: set[str]) -> None:
        missing = sorted(user_ids - self._model.users.keys())
        if missing:
            histories = await self._store.users(missing)
            users = {user_id: _user(user_id, histories.get(user_id)) for user_id in missing}
            self._model.users |= users
            self._loaded += sum(len(user.products) + len(user.baskets) for user in users.values()) + len(users)

    async def _load_items(self, product_ids: set[str]) -> None:
        missing = sorted(product_ids - self._model.items.keys())
        if not missing:
            return
        for sums in await self._store.items(missing):
            self._model.items[sums.product_id] = Item(*sums[:5], dict(sums.together), dict(sums.also))
            self._loaded += len(sums.together) + len(sums.also)
        self._loaded += len(missing)
        for product_id in missing:
            if product_id not in self._model.items:
                self._last_number += 1
                self._model.items[product_id] = Item(self._last_number, product_id)

    async def _publish(self, items: Sequence[ItemSums], *, exact: bool) -> None:
        if not items:
            return
        totals = Totals(*self._saved[:4])
        numbers = {number for sums in items for number in (*sums.together, *sums.also)}
        neighbours = {number: Neighbour(*found) for number, found in (await self._store.neighbours(numbers)).items()}
        present = {row.product_id: row for row in await self._store.rows([sums.product_id for sums in items])}
        rows = []
        for count, sums in enumerate(items, 1):
            if count % TURN == 0:
                await asyncio.sleep(0)
            computed = item_row(Item(*sums[:5], dict(sums.together), dict(sums.also)), neighbours, totals)
            row, old = _row(computed), present.get(sums.product_id)
            if old is None or (row[:5] != old[:5] if exact else computed.differs(decode_row(old))):
                rows.append(row)
        await self._store.publish([sums.number for sums in items], rows)


def decode_row(row: Row) -> ItemRow:
    """Returns a published row as `rank` uses it."""
    return ItemRow(
        row.product_id,
        dict(zip(row.together, row.together_weights, strict=True)),
        dict(zip(row.also, row.also_weights, strict=True)),
        row.model_time,
    )


def decode_user(user_id: str, history: Any) -> User:
    """Returns a user by the stored history; None for a user without one."""
    return _user(user_id, history)


def _row(row: ItemRow) -> Row:
    return Row(
        row.product_id,
        list(row.together),
        as_stored(list(row.together.values())),
        list(row.also),
        as_stored(list(row.also.values())),
        row.model_time,
    )


def _sums(item: Item) -> ItemSums:
    return ItemSums(item.number, item.product_id, item.popularity, item.baskets, item.customers, item.together, item.also)


def _user(user_id: str, history: Mapping[str, Any] | None) -> User:
    if history is None:
        return User(user_id)
    return User(
        user_id,
        [Basket(*basket) for basket in history["baskets"]],
        dict(history["products"]),
    )


def _history(user: User) -> dict[str, Any]:
    # As pairs: objects in jsonb have no order.
    return {"baskets": user.baskets, "products": list(user.products.items())}
