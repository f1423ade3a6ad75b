"""Lists of products, and the categories, in two datasets.

`product_list` has the version of each list, `product_page` what is on a page, or the categories. The id of a page includes the
versions of its list, so a page never changes: when the list does, its pages have other ids, and the present ones are not read
any more. So nothing has to know which pages of a list are cached, to invalidate them. Decision 7 says how lists get versions.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from google.protobuf.unknown_fields import UnknownFieldSet

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InvalidRequest, Overloaded, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.services.shared import pages, wire
from cache_sidecar.store.product import ProductRow
from cache_sidecar.store.product_list import CATEGORIES, START, CategoryCount, Listed, Order, Place, ProductListStore, is_key
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Freshness, Load, Row, Source, UnreadableRow
from cache_sidecar.v1 import product_service_pb2 as pb

LIST, PAGE = "product_list", "product_page"
# Pages that a load reads at the same time.
AT_ONCE = 16
# What caches keep of a list: it has a version, and nothing else.
_LIST_VALUE = b"1"
_ORDERS = {
    pb.PRODUCT_ORDER_UNSPECIFIED: Order.PRODUCT_ID,
    pb.PRODUCT_ORDER_PRODUCT_ID: Order.PRODUCT_ID,
    pb.PRODUCT_ORDER_TITLE: Order.TITLE,
    pb.PRODUCT_ORDER_PRICE: Order.PRICE,
    pb.PRODUCT_ORDER_NEWEST: Order.NEWEST,
    pb.PRODUCT_ORDER_RANK: Order.RANK,
}


class Listing(NamedTuple):
    """Which page of which list is wanted."""

    order: Order
    category: str
    "Empty for all products."
    size: int
    after: Place


class Page(NamedTuple):
    """What is on a page."""

    products: Sequence[Listed]
    has_more: bool
    "Whether the list goes on."


class ProductLists:
    """Reads lists through the tiers."""

    def __init__(self, lists: Dataset, pages: Dataset, store: ProductListStore, *, clock: Clock) -> None:
        self._lists = lists
        self._pages = pages
        self._store = store
        self._clock = clock
        self._tasks = BackgroundTasks()
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = self._answered_at = self._kept_at = -math.inf
        "When PostgreSQL was last asked whether it keeps the lists up to date, when it last said so or not, and when it did."
        self._is_silent = False
        "Whether it did not answer when it was last asked."

    async def close(self) -> None:
        """Ends what runs behind replies."""
        await self._tasks.stop()

    async def read(self, listing: Listing, wanted: Freshness) -> tuple[Page, list[Answer]]:
        """Returns a page, and the answers that it was read by. Raises TierFailed."""
        answers = await self._read_versions([f"{kind}:{listing.category}" for kind in listing.order.changes], wanted)
        page = await self._pages.get(_page_id(listing, [answer.version for answer in answers]), wanted)
        return _unpack(page.value), [*answers, page]

    async def read_categories(self, wanted: Freshness) -> tuple[bytes, list[Answer]]:
        """Returns the reply of GetCategories without its metadata, and the answers that it was read by. Raises TierFailed."""
        answers = await self._read_versions([CATEGORIES], wanted)
        page = await self._pages.get(_id("categories", answers[0].version), wanted)
        return page.value or b"", [*answers, page]

    async def _read_versions(self, list_ids: Sequence[str], wanted: Freshness) -> list[Answer]:
        found = await self._lists.get_many(list_ids, wanted)
        is_behind = any(answer.source is not Source.STORE for answer in found.values()) and await self._is_behind()
        return [found[id]._replace(stale=found[id].stale or is_behind) for id in list_ids]

    async def _is_behind(self) -> bool:
        """Whether PostgreSQL has not kept the lists up to date for longer than their staleness bound.

        The relay's watermarks do not say so, as it publishes all other changes. PostgreSQL is asked twice per bound, if lists
        are read from caches. If it does not answer, the relay cannot ask it either, and its watermarks say what is stale.
        """
        bound, now = self._lists.policy().staleness_bound, self._clock.now()
        if self._asking is None or (self._asking.done() and now - self._asked_at >= bound / 2):
            self._asked_at = now
            self._asking = self._tasks.spawn(self._ask(now))
        # A PostgreSQL that hangs must not delay what memory has: readers wait for an answer only if they have none to go by.
        if not self._is_silent and (now - self._answered_at > bound or self._lags(now, bound)):
            await asyncio.shield(self._asking)
        return self._lags(now, bound)

    def _lags(self, now: float, bound: float) -> bool:
        return self._kept_at < self._answered_at and now - self._kept_at > bound

    async def _ask(self, now: float) -> None:
        try:
            is_kept = await self._store.is_kept()
        except (TierFailed, Overloaded):
            self._is_silent = True
            return
        self._is_silent, self._answered_at = False, now
        if is_kept:
            self._kept_at = now

    async def publish(self, list_ids: Sequence[str]) -> None:
        """Has every sidecar read these lists anew, after a committed change of a product that affects them. Never fails.

        The relay does the same, a moment later. But a caller of this sidecar who has the reply to the change expects to see it.
        Without their versions, they are dropped: whoever reads them has PostgreSQL make these, however long that takes.
        """
        if not list_ids:
            return
        with contextlib.suppress(TierFailed, Overloaded):
            if (versions := await self._store.versions_soon(list_ids)) is not None:
                await self._lists.publish(versions)
                return
        with contextlib.suppress(TierFailed, Overloaded):
            await self._lists.drop(list_ids)


def listing_of(request: pb.ListProductsRequest) -> Listing:
    """Returns which page a request asks for. Raises InvalidRequest."""
    order = _ORDERS[request.order]
    place = START
    if after := pages.after(request.page_token, _text(order, request.category)):
        if order is Order.PRODUCT_ID:
            place = Place("", after)
        else:
            length, _, rest = after.partition(" ")
            size = int(length) if length.isascii() and length.isdecimal() and len(length) <= len("100") else -1
            place = Place(rest[: max(0, size)], rest[max(0, size) :])
            if size != len(place.key) or not is_key(order, place.key):
                raise InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"})
    return Listing(order, request.category, pages.size(request.page_size), place)


def token_after(listing: Listing, last: Listed) -> str:
    """Returns the token of the page that begins after a product."""
    after = last.product_id if listing.order is Order.PRODUCT_ID else f"{len(last.key)} {last.key}{last.product_id}"
    return pages.token(after, _text(listing.order, listing.category))


def _text(order: Order, category: str) -> str:
    """Describes a list, for its tokens; those of a list by product_id were like this before there were other orders."""
    return category if order is Order.PRODUCT_ID else f"{category}\x00{order.value}"


def lists_of_change(old: ProductRow | None, new: ProductRow | None) -> list[str]:
    """Returns the lists that a change of a product affects, as a migration says it in SQL; None is no product.

    At least these: more is harmless.
    """
    was, is_now = (row if row is not None and row.active else None for row in (old, new))
    before = {*was.categories, ""} if was else set[str]()
    after = {*is_now.categories, ""} if is_now else set[str]()
    found = [f"members:{category}" for category in before ^ after]
    if any(before ^ after):
        found.append(CATEGORIES)
    if was and is_now:
        for kind, is_other in (
            ("title", was.title != is_now.title),
            ("price", (was.price_units, was.price_nanos) != (is_now.price_units, is_now.price_nanos)),
            ("rank", was.rank != is_now.rank),
        ):
            found += [f"{kind}:{category}" for category in before & after if is_other]
    return found


# What caches keep, and how it is loaded


def list_loader(store: ProductListStore) -> Load:
    """Returns the function that loads the versions of lists; 0 of a list that never changed."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        versions = await store.versions(ids)
        return {id: Row(versions.get(id, 0), _LIST_VALUE) for id in ids}

    return load


def page_loader(store: ProductListStore) -> Load:
    """Returns the function that loads pages, and the categories."""

    async def load_one(id: str) -> Row:
        match json.loads(id):
            case ["page", str(order), str(category), int(size), _, str(key), str(product_id)]:
                found = await store.page(Order(order), category, Place(key, product_id), size + 1)
                return Row(0, _pack(Page(found[:size], len(found) > size)))
            case _:
                return Row(0, _reply_of(await store.categories()))

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        found: dict[str, Row | UnreadableRow] = {}
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            found |= dict(zip(some, await asyncio.gather(*map(load_one, some)), strict=True))
        return found

    return load


def is_list(_id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a list."""
    return value == _LIST_VALUE


def is_page(id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a page, or of the categories."""
    if id.startswith('["categories"'):
        entry = wire.parse(pb.GetCategoriesResponse, value)
        return entry is not None and not entry.HasField("cache") and not len(UnknownFieldSet(entry))
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(value):
            case [bool(), list(products)]:
                return all(_is_listed(one) for one in products)
    return False


def _is_listed(one: object) -> bool:
    match one:
        case [str(id), int(), str()]:
            return bool(id)
    return False


def _page_id(listing: Listing, versions: Sequence[int]) -> str:
    return _id("page", listing.order.value, listing.category, listing.size, versions, *listing.after)


def _id(*parts: Any) -> str:
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


def _pack(page: Page) -> bytes:
    return json.dumps([page.has_more, page.products], ensure_ascii=False, separators=(",", ":")).encode()


def _unpack(value: bytes | None) -> Page:
    if value is None:
        return Page([], has_more=False)
    has_more, products = json.loads(value)
    return Page([Listed(*one) for one in products], has_more)


def _reply_of(counts: Iterable[CategoryCount]) -> bytes:
    """Returns the trees of categories. Those above a category come before it."""
    reply = pb.GetCategoriesResponse()
    found: dict[str, pb.Category] = {}
    for name, products, all_products in sorted(counts, key=lambda count: count.category.split("/")):
        above = found.get(name.rpartition("/")[0])
        node = (reply.categories if above is None else above.subcategories).add()
        node.category, node.product_count, node.total_product_count = name, products, all_products
        found[name] = node
    return reply.SerializeToString()
