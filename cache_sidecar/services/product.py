"""ProductService: the catalogue."""

from collections.abc import AsyncIterator, Sequence
from math import isnan
from typing import Any, NamedTuple

import grpc

from cache_sidecar.core.errors import InvalidRequest, NotFound
from cache_sidecar.services import product_list, product_search
from cache_sidecar.services.product_list import Listing, ProductLists, lists_of_change
from cache_sidecar.services.shared import pages, rows, wire
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes, Started
from cache_sidecar.services.shared.etags import check_etag, etag_of
from cache_sidecar.services.shared.freshness import describe, freshness_of, metadata, metadata_of_all
from cache_sidecar.services.shared.known import read_known
from cache_sidecar.services.shared.timestamps import optional_timestamp, timestamp
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.services.shared.writes import Writer, publish
from cache_sidecar.store.product import ProductRow, ProductStore
from cache_sidecar.store.product_list import Listed, Order
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Freshness, Load, Row, Source, UnreadableRow
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
Lists = Sequence[str]
"""The lists that a change of a product affects."""
DATASET = "product"
# Products of a page that are read at once: no more than that are read in vain when a reply is full.
AT_ONCE = 100
CHANGEABLE = ("title", "description", "price", "categories", "brand", "image_uris", "attributes", "active", "rank")
KINDS = {"created": pb.CHANGE_KIND_CREATED, "updated": pb.CHANGE_KIND_UPDATED, "deleted": pb.CHANGE_KIND_DELETED}


class Shown(NamedTuple):
    """The part of a page that fits into a reply."""

    parts: list[bytes]
    "The entries of its products: concatenated, they are a repeated field."
    done: int
    "How many products of the page they stand for."
    answers: list[Answer]
    version: int
    "The newest of a product."
    is_whole: bool
    "Whether some tier answered for each product."


class ProductService(ProductServiceServicer):
    """Reads products through the tiers, and writes them through to PostgreSQL."""

    def __init__(
        self,
        products: Dataset,
        *,
        lists: ProductLists,
        searches: Dataset,
        store: ProductStore,
        writer: Writer,
        changes: Changes,
        bound: Bound,
    ) -> None:
        self._products = products
        self._lists = lists
        self._searches = searches
        self._bound = bound
        self._store = store
        self._writer = writer
        self._changes = changes

    async def GetProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetProductRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended: on the wire, fields may be in any order."""
        answer = await self._products.get(request.product_id, freshness_of(request.options, context))
        if answer.value is None:
            raise NotFound("product", request.product_id)
        reply = pb.GetProductResponse()
        describe(answer, reply.cache)
        return answer.value + reply.SerializeToString()

    async def BatchGetProducts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.BatchGetProductsRequest, context: Context
    ) -> bytes:
        """Returns the cached replies concatenated: on the wire, that is a repeated field."""
        ids = list(dict.fromkeys(request.product_ids))
        answers = await self._products.get_many(ids, freshness_of(request.options, context))
        found = [answer for id in ids if id in answers and (answer := answers[id]).value is not None]
        rest = pb.BatchGetProductsResponse(
            missing=[id for id in ids if id in answers and answers[id].value is None],
            product_caches=map(metadata, found),
            cache=metadata_of_all(answers.values()),
        )
        parts = [*(answer.value or b"" for answer in found), rest.SerializeToString()]
        self._bound.check(sum(map(len, parts)))
        return b"".join(parts)

    async def ListProducts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ListProductsRequest, context: Context
    ) -> bytes:
        """Returns the cached replies of the products on a page concatenated, as many as fit."""
        listing, wanted = product_list.listing_of(request), freshness_of(request.options, context)
        if request.include_inactive:
            if listing.order is not Order.PRODUCT_ID:
                raise InvalidRequest({"order": "must be by product_id if include_inactive is set"})
            return await self._list_all(listing)
        page, answers = await self._lists.read(listing, wanted)
        shown = await self._show(page.products, wanted, room=self._bound.room, category=request.category)
        cache = metadata_of_all([*answers, *shown.answers], version=shown.version)
        cache.stale = cache.stale or not shown.is_whole
        is_last = shown.done == len(page.products) and not page.has_more
        token = "" if is_last else product_list.token_after(listing, page.products[shown.done - 1])
        return b"".join((*shown.parts, pb.ListProductsResponse(next_page_token=token, cache=cache).SerializeToString()))

    async def _show(self, products: Sequence[Listed], wanted: Freshness, *, room: int, category: str = "") -> Shown:
        """Reads the products of a page, of a category or of any, as far as their entries have `room` bytes."""
        parts: list[bytes] = []
        answers: list[Answer] = []
        left, done, version, is_whole = room, 0, 0, True
        while done < len(products):
            some = products[done : done + AT_ONCE]
            found, unread = await read_known(self._products.get_many, [one.product_id for one in some], wanted)
            is_whole = is_whole and not unread
            for listed in some:
                entry = _entry_to_show(listed, found.get(listed.product_id), category)
                if left < len(entry) <= room:
                    break
                if len(entry) <= left:
                    parts.append(entry)
                    left -= len(entry)
                done += 1
                if (answer := found.get(listed.product_id)) is not None:
                    answers.append(answer)
                    version = max(version, answer.version)
            else:
                continue
            break
        return Shown(parts, done, answers, version, is_whole)

    async def _list_all(self, listing: Listing) -> bytes:
        """Reads one product more than the page has, to know whether there is another page."""
        found = await self._store.page(
            after=listing.after.product_id, category=listing.category, limit=listing.size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, listing.size, rows.skip_unreadable(make_message, self._products))
        newest = max((row.version for row in page.rows), default=0)
        token = "" if page.is_last else pages.token(page.rows[-1].product_id, listing.category)
        cache = metadata(Answer(None, Source.STORE, newest, 0.0, stale=False))
        return pb.ListProductsResponse(products=page.messages, next_page_token=token, cache=cache).SerializeToString()

    async def GetCategories(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCategoriesRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended."""
        entry, answers = await self._lists.read_categories(freshness_of(request.options, context))
        rest = pb.GetCategoriesResponse(cache=metadata_of_all(answers)).SerializeToString()
        self._bound.check(len(entry) + len(rest))
        return entry + rest

    async def SearchProducts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.SearchProductsRequest, context: Context
    ) -> bytes:
        """Returns the cached replies of the products on a page of the result concatenated, as many as fit beside the counts."""
        wanted = freshness_of(request.options, context)
        answer = await self._searches.get(product_search.search_of(request), wanted)
        found = product_search.unpack(answer.value)
        page = product_search.page_of(request, found)
        facets = product_search.facets_of(request, found)
        rest = pb.SearchProductsResponse(facets=facets, **product_search.counts_of(found))
        shown = await self._show(page.products, wanted, room=self._bound.room - rest.ByteSize())
        if not page.is_last or shown.done < len(page.products):
            rest.next_page_token = product_search.token_after(request, page.start + shown.done)
        rest.cache.CopyFrom(metadata_of_all([answer, *shown.answers], version=shown.version))
        rest.cache.stale = rest.cache.stale or not shown.is_whole
        parts = [*shown.parts, rest.SerializeToString()]
        self._bound.check(sum(map(len, parts)))
        return b"".join(parts)

    async def CreateProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.CreateProductRequest, context: Context
    ) -> bytes:
        """Inserts the product."""

        async def create(tx: Transaction) -> WriteResult[Lists]:
            row = await self._store.create(tx, _to_row(request.product))
            return _result(pb.CreateProductResponse(product=make_message(row)), None, row)

        return (await self._writer.run(request, create, self._publish)).reply

    async def UpdateProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.UpdateProductRequest, context: Context
    ) -> bytes:
        """Changes the row as it is when it is locked, so that no concurrent change is lost."""
        given = request.product
        validate(pb.GetProductRequest(product_id=given.product_id), path="product.")
        fields = _fields(request)

        async def update(tx: Transaction) -> WriteResult[Lists]:
            locked = await self._store.lock(tx, given.product_id)
            check_etag("product", given.product_id, given=given.etag, current=etag_of(locked.version))
            current = rows.read_alone(locked, make_message, resource="product", id=given.product_id)
            row = await self._store.save(tx, locked, _to_row(_update(current, given, fields)))
            return _result(pb.UpdateProductResponse(product=make_message(row)), locked, row)

        return (await self._writer.run(request, update, self._publish)).reply

    async def DeleteProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.DeleteProductRequest, context: Context
    ) -> bytes:
        """Deletes the row; caches keep the version of the deletion, so that nothing older comes back."""
        id = request.product_id

        async def delete(tx: Transaction) -> WriteResult[Lists]:
            locked = await self._store.lock(tx, id)
            check_etag("product", id, given=request.etag, current=etag_of(locked.version))
            version = await self._store.delete(tx, id)
            reply = pb.DeleteProductResponse().SerializeToString()
            return WriteResult(reply, [RowChange(id, version)], lists_of_change(locked, None))

        return (await self._writer.run(request, delete, self._publish)).reply

    async def _publish(self, result: WriteResult[Lists]) -> bool:
        """Publishes a product, then the lists that it enters, leaves or moves in."""
        is_published = await publish(self._products, result)
        await self._lists.publish(result.value or ())
        return is_published

    async def WatchProducts(
        self, request: pb.WatchProductsRequest, context: Context
    ) -> AsyncIterator[pb.WatchProductsResponse]:
        """Streams the changes in the outbox."""
        async for change in self._changes.watch(DATASET, request.after_version):
            if isinstance(change, Started):
                yield pb.WatchProductsResponse(version=change.version, kind=pb.CHANGE_KIND_WATCH_STARTED)
            else:
                yield pb.WatchProductsResponse(
                    product_id=change.id,
                    version=change.version,
                    kind=KINDS[change.kind],
                    change_time=timestamp(change.change_time),
                )


def loader(store: ProductStore) -> Load:
    """Returns the function that loads products for the dataset."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.product_id: rows.read(row, _to_cached) for row in await store.load(ids)}

    return load


def _to_cached(row: ProductRow) -> Row:
    return Row(row.version, make_entry(row))


def make_entry(row: ProductRow) -> bytes:
    """Returns what caches keep of a product: the reply of GetProduct, without its metadata."""
    return pb.GetProductResponse(product=make_message(row)).SerializeToString()


def is_entry(id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of this product: its message alone, as replies are put together from them."""
    entry = wire.parse(pb.GetProductResponse, value)
    return entry is not None and entry.product.product_id == id and wire.has_only(entry, "product")


def is_same_entry(one: bytes, other: bytes) -> bool:
    """Whether two entries are the same message, however it is encoded."""
    return one == other or pb.GetProductResponse.FromString(one) == pb.GetProductResponse.FromString(other)


def make_message(row: ProductRow) -> Product:
    """Returns a row as callers see it."""
    product = Product(
        product_id=row.product_id,
        title=row.title,
        description=row.description,
        categories=row.categories,
        brand=row.brand,
        image_uris=row.image_uris,
        attributes=row.attributes,
        active=row.active,
        etag=etag_of(row.version),
        create_time=optional_timestamp(row.create_time),
        update_time=optional_timestamp(row.update_time),
    )
    product.price.units = row.price_units
    product.price.nanos = row.price_nanos
    product.price.currency_code = row.currency_code
    # Lists have a product whose rank is not a number where they have those without.
    if row.rank is not None and not isnan(row.rank):
        product.rank = row.rank
    return product


def _to_row(product: Product) -> ProductRow:
    return ProductRow(
        product_id=product.product_id,
        title=product.title,
        description=product.description,
        price_units=product.price.units,
        price_nanos=product.price.nanos,
        currency_code=product.price.currency_code,
        categories=list(product.categories),
        brand=product.brand,
        image_uris=list(product.image_uris),
        attributes=dict(product.attributes),
        active=product.active,
        rank=product.rank if product.HasField("rank") else None,
    )


def _result(
    reply: pb.CreateProductResponse | pb.UpdateProductResponse, old: ProductRow | None, row: ProductRow
) -> WriteResult[Lists]:
    changes = [RowChange(row.product_id, row.version, make_entry(row))]
    return WriteResult(reply.SerializeToString(), changes, lists_of_change(old, row))


def _entry_to_show(listed: Listed, answer: Answer | None, category: str) -> bytes:
    """Returns the entry of a product for a list; nothing if it cannot be read, or is not in the list any more.

    A product that changed since the list did may have left it: the product is often known to have changed a moment earlier.
    """
    if answer is None or answer.value is None:
        return b""
    if answer.version > listed.version:
        product = pb.GetProductResponse.FromString(answer.value).product
        if not product.active or (category and category not in product.categories):
            return b""
    return answer.value


def _fields(request: pb.UpdateProductRequest) -> Sequence[str]:
    """Returns the fields that an update changes."""
    paths = list(dict.fromkeys(request.update_mask.paths))
    if paths == ["*"]:
        return CHANGEABLE
    for path in paths:
        if path not in CHANGEABLE:
            known = ", ".join(CHANGEABLE)
            raise InvalidRequest({"update_mask": f"{path[:64]!r} cannot be changed; these can: {known}, or * for all"})
    present = [field.name for field, _ in request.product.ListFields() if field.name in CHANGEABLE]
    if not paths and not present:
        raise InvalidRequest({"update_mask": "names no field, and product has none set: there is nothing to change"})
    return paths or present


def _update(current: Product, given: Product, fields: Sequence[str]) -> Product:
    """Returns `current` with those fields of `given`. Raises InvalidRequest when the result breaks a rule."""
    updated, new = Product(), Product()
    updated.CopyFrom(current)
    new.CopyFrom(given)
    for name in Product.DESCRIPTOR.fields_by_name:
        (updated if name in fields else new).ClearField(name)  # type: ignore[arg-type]  # a name of this message
    updated.MergeFrom(new)
    validate(updated, path="product.")
    return updated
