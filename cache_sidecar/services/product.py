"""ProductService: the catalogue."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.core.errors import EtagMismatch, InvalidRequest, NotFound
from cache_sidecar.services.shared import pages, rows
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes, Started
from cache_sidecar.services.shared.freshness import describe, metadata, metadata_of_all, wanted
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.pool import Connection, WriteResult
from cache_sidecar.store.product import ProductRow, ProductStore
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Load, Row, Source, UnreadableRow
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
DATASET = "product"
CHANGEABLE = ("title", "description", "price", "categories", "brand", "image_uris", "attributes", "active")
KINDS = {"created": pb.CHANGE_KIND_CREATED, "updated": pb.CHANGE_KIND_UPDATED, "deleted": pb.CHANGE_KIND_DELETED}


class ProductService(ProductServiceServicer):
    """Reads products through the tiers, and writes them through to PostgreSQL."""

    def __init__(self, products: Dataset, *, store: ProductStore, writer: Writer, changes: Changes, bound: Bound) -> None:
        self._products = products
        self._bound = bound
        self._store = store
        self._writer = writer
        self._changes = changes

    async def GetProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetProductRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended: fields may follow each other in any order on the wire."""
        answer = await self._products.get(request.product_id, wanted(request.options, context))
        if answer.value is None:
            raise NotFound("product", request.product_id)
        reply = pb.GetProductResponse()
        describe(answer, reply.cache)
        return answer.value + reply.SerializeToString()

    async def BatchGetProducts(  # type: ignore[override]  # replies are serialized here
        self, request: pb.BatchGetProductsRequest, context: Context
    ) -> bytes:
        """Returns the cached replies one after the other: on the wire, that is what a repeated field is."""
        ids = list(dict.fromkeys(request.product_ids))
        answers = await self._products.get_many(ids, wanted(request.options, context))
        found = [answer for id in ids if id in answers and (answer := answers[id]).value is not None]
        rest = pb.BatchGetProductsResponse(
            missing=[id for id in ids if id in answers and answers[id].value is None],
            product_caches=map(metadata, found),
            cache=metadata_of_all(answers.values()),
        )
        parts = [*(answer.value or b"" for answer in found), rest.SerializeToString()]
        self._bound.check(sum(map(len, parts)))
        return b"".join(parts)

    async def ListProducts(self, request: pb.ListProductsRequest, context: Context) -> pb.ListProductsResponse:
        """Asks for one product more than is wanted, to know whether there is another page."""
        size = pages.size(request.page_size)
        after = pages.after(request.page_token, request.category)
        found = await self._store.page(after=after, category=request.category, limit=size + 1, max_bytes=self._bound.room)
        page = self._bound.page(found, size, rows.readable(message, self._products))
        newest = max((row.version for row in page.rows), default=0)
        return pb.ListProductsResponse(
            products=page.messages,
            next_page_token="" if page.is_last else pages.token(page.rows[-1].product_id, request.category),
            cache=metadata(Answer(None, Source.STORE, newest, 0.0, stale=False)),
        )

    async def CreateProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.CreateProductRequest, context: Context
    ) -> bytes:
        """Inserts the product."""

        async def create(connection: Connection) -> WriteResult:
            row = await self._store.create(connection, _row(request.product))
            return _written(row, pb.CreateProductResponse(product=message(row)))

        return await self._writer.write(self._products, request, create)

    async def UpdateProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.UpdateProductRequest, context: Context
    ) -> bytes:
        """Changes the row as it is when it is locked, so that no other change is lost."""
        product = request.product
        validate(pb.GetProductRequest(product_id=product.product_id), path="product.")
        fields = _fields(request)

        def change(current: ProductRow) -> ProductRow:
            _check_etag(current, product.etag)
            present = rows.read_alone(current, message, resource="product", id=current.product_id)
            return _row(_changed(present, product, fields))

        async def update(connection: Connection) -> WriteResult:
            row = await self._store.update(connection, product.product_id, change)
            return _written(row, pb.UpdateProductResponse(product=message(row)))

        return await self._writer.write(self._products, request, update)

    async def DeleteProduct(  # type: ignore[override]  # replies are serialized here
        self, request: pb.DeleteProductRequest, context: Context
    ) -> bytes:
        """Deletes the row; caches keep the version of its deletion, so that nothing older comes back."""
        id = request.product_id

        async def delete(connection: Connection) -> WriteResult:
            version = await self._store.delete(connection, id, lambda current: _check_etag(current, request.etag))
            return WriteResult(pb.DeleteProductResponse().SerializeToString(), id, version)

        return await self._writer.write(self._products, request, delete)

    async def WatchProducts(
        self, request: pb.WatchProductsRequest, context: Context
    ) -> AsyncIterator[pb.WatchProductsResponse]:
        """Passes on what the outbox says."""
        async for told in self._changes.watch(DATASET, request.after_version):
            if isinstance(told, Started):
                yield pb.WatchProductsResponse(version=told.version, kind=pb.CHANGE_KIND_WATCH_STARTED)
            else:
                yield pb.WatchProductsResponse(
                    product_id=told.id,
                    version=told.version,
                    kind=KINDS[told.kind],
                    change_time=_timestamp(told.change_time),
                )


def loader(store: ProductStore) -> Load:
    """Returns what the dataset loads products with."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.product_id: rows.read(row, _found) for row in await store.load(ids)}

    return load


def _found(row: ProductRow) -> Row:
    return Row(row.version, entry(row))


def entry(row: ProductRow) -> bytes:
    """Returns what caches keep of a product: the reply of GetProduct, without its metadata."""
    return pb.GetProductResponse(product=message(row)).SerializeToString()


def same(one: bytes, other: bytes) -> bool:
    """Says whether two entries say the same, however they are written."""
    return one == other or pb.GetProductResponse.FromString(one) == pb.GetProductResponse.FromString(other)


def message(row: ProductRow) -> Product:
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
        etag=_etag(row),
        create_time=_timestamp(row.create_time),
        update_time=_timestamp(row.update_time),
    )
    product.price.units = row.price_units
    product.price.nanos = row.price_nanos
    product.price.currency_code = row.currency_code
    return product


def _row(product: Product) -> ProductRow:
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
    )


def _written(row: ProductRow, reply: pb.CreateProductResponse | pb.UpdateProductResponse) -> WriteResult:
    return WriteResult(reply.SerializeToString(), row.product_id, row.version, entry(row))


def _timestamp(time: datetime | None) -> Timestamp:
    stamp = Timestamp()
    if time is not None:
        stamp.FromDatetime(time)
    return stamp


def _etag(row: ProductRow) -> str:
    return f"{row.version:x}"


def _check_etag(current: ProductRow, given: str) -> None:
    if given and given != _etag(current):
        raise EtagMismatch("product", current.product_id, _etag(current))


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


def _changed(current: Product, given: Product, fields: Sequence[str]) -> Product:
    """Returns `current` with the fields of `given`. Raises InvalidRequest when the result breaks a rule."""
    changed, wanted = Product(), Product()
    changed.CopyFrom(current)
    wanted.CopyFrom(given)
    for name in Product.DESCRIPTOR.fields_by_name:
        (changed if name in fields else wanted).ClearField(name)  # type: ignore[arg-type]  # a name of this message
    changed.MergeFrom(wanted)
    validate(changed, path="product.")
    return changed
