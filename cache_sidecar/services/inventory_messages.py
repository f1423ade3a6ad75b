"""The inventory of products as caches keep it, and as callers see it."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from zlib import crc32

from google.protobuf.message import Message

from cache_sidecar.inventory.stock import Bucket, BucketRecord, ProductStock, version_of
from cache_sidecar.services.shared import freshness, rows
from cache_sidecar.services.shared.etags import etag_of
from cache_sidecar.services.shared.timestamps import timestamp_of_micros
from cache_sidecar.store.inventory import InventoryRow, InventoryStore
from cache_sidecar.store.writes import RowChange, WriteResult
from cache_sidecar.tiers.ports import Load, Row, UnreadableRow
from cache_sidecar.v1.cache_pb2 import CacheMetadata
from cache_sidecar.v1.inventory_pb2 import Inventory

DATASET = "inventory"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def loader(store: InventoryStore) -> Load:
    """Returns the function that loads rows of the inventory for the dataset."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.id: rows.read(row, _to_row) for row in await store.load(ids)}

    return load


def whole_loader(store: InventoryStore) -> Load:
    """Returns the function that loads all rows of products by one statement."""

    async def load(product_ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.id: rows.read(row, _to_row) for row in await store.load_whole(product_ids)}

    return load


def _to_row(row: InventoryRow) -> Row:
    return Row(row.version, make_bucket(row).stock.pack())


def is_entry(_id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a row of the inventory, with numbers that callers can be told."""
    stock = BucketRecord.unpack(value)
    return stock is not None and stock.is_possible()


def make_bucket(row: InventoryRow) -> Bucket:
    """Returns a row as caches keep it."""
    updated = (row.update_time - _EPOCH) // _MICROSECOND
    record = BucketRecord(row.available, row.reserved, row.buckets, row.grant_version, updated, row.epoch, row.steps)
    return Bucket(row.id, record, row.version)


def result_of(reply: Message, rows: Sequence[InventoryRow]) -> WriteResult[None]:
    """Returns the result of a write that left these rows, changed or not."""
    changes = [RowChange(row.id, row.version, make_bucket(row).stock.pack()) for row in rows]
    return WriteResult(reply.SerializeToString(), changes)


def make_message(product_id: str, parts: Sequence[Bucket]) -> Inventory:
    """Returns the stock of a product, given all of its rows, bucket 0 first, as callers see it."""
    return Inventory(
        product_id=product_id,
        available=sum(part.stock.available for part in parts),
        reserved=sum(part.stock.reserved for part in parts),
        bucket_count=parts[0].stock.buckets,
        etag=make_etag(parts),
        update_time=timestamp_of_micros(max(part.stock.update_time for part in parts)),
    )


def make_etag(parts: Sequence[Bucket]) -> str:
    """Returns the etag of all rows of a product: its version, and with several rows a checksum of theirs."""
    etag = etag_of(version_of(parts))
    return etag if len(parts) == 1 else f"{etag}-{crc32(repr([part.version for part in parts]).encode()):x}"


def make_metadata(total: ProductStock) -> CacheMetadata:
    """Returns where the stock of a product came from, with its version."""
    return make_metadata_of_all([total])


def make_metadata_of_all(totals: Collection[ProductStock]) -> CacheMetadata:
    """Returns where the stock of several products came from, the least fresh of each, with the newest version among them."""
    answers = [answer for total in totals for answer in total.answers]
    return freshness.metadata_of_all(answers, version=max((total.version for total in totals), default=0))
