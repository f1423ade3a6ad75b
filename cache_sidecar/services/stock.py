"""What stock looks like to caches and to callers."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from zlib import crc32

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.inventory.stock import Bucket, BucketRecord, ProductStock, version_of
from cache_sidecar.services.shared import freshness, rows
from cache_sidecar.store.inventory import InventoryRow, InventoryStore
from cache_sidecar.store.pool import RowChange, WriteResult
from cache_sidecar.tiers.ports import Load, Row, UnreadableRow
from cache_sidecar.v1.cache_pb2 import CacheMetadata
from cache_sidecar.v1.inventory_pb2 import Inventory

DATASET = "inventory"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def loader(store: InventoryStore) -> Load:
    """Returns what the dataset loads rows of the inventory with."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.id: rows.read(row, _found) for row in await store.load(ids)}

    return load


def whole_loader(store: InventoryStore) -> Load:
    """Returns what all rows of products are loaded with, by one statement."""

    async def load(product_ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.id: rows.read(row, _found) for row in await store.load_whole(product_ids)}

    return load


def _found(row: InventoryRow) -> Row:
    return Row(row.version, part(row).stock.pack())


def part(row: InventoryRow) -> Bucket:
    """Returns a row as caches keep it."""
    updated = (row.update_time - _EPOCH) // _MICROSECOND
    stock = BucketRecord(row.available, row.reserved, row.buckets, row.grant_version, updated, row.epoch, row.steps)
    return Bucket(row.id, stock, row.version)


def written(reply: Message, rows: Sequence[InventoryRow]) -> WriteResult:
    """Returns what a write did that changed these rows, or found them as they are."""
    changes = [RowChange(one.id, one.version, one.stock.pack()) for one in map(part, rows)]
    return WriteResult(reply.SerializeToString(), "", 0, also=changes)


def message(product_id: str, parts: Sequence[Bucket]) -> Inventory:
    """Returns the stock of a product, given all of its rows, bucket 0 first, as callers see it."""
    return Inventory(
        product_id=product_id,
        available=sum(part.stock.available for part in parts),
        reserved=sum(part.stock.reserved for part in parts),
        bucket_count=parts[0].stock.buckets,
        etag=etag(parts),
        update_time=_microseconds(max(part.stock.update_time for part in parts)),
    )


def etag(parts: Sequence[Bucket]) -> str:
    """Returns what differs whenever the rows of a product do: the version, and of several rows what tells each one's."""
    version = version_of(parts)
    return f"{version:x}" if len(parts) == 1 else f"{version:x}-{crc32(repr([part.version for part in parts]).encode()):x}"


def metadata(total: ProductStock) -> CacheMetadata:
    """Returns where the stock of a product came from, with its version."""
    return metadata_of_all([total])


def metadata_of_all(totals: Collection[ProductStock]) -> CacheMetadata:
    """Returns where the stock of several products came from, the least fresh of each, with the newest version among them."""
    answers = [answer for total in totals for answer in total.answers]
    return freshness.metadata_of_all(answers, version=max((total.version for total in totals), default=0))


def timestamp(time: datetime | None) -> Timestamp:
    """Returns a time as callers see it."""
    stamp = Timestamp()
    if time is not None:
        stamp.FromDatetime(time)
    return stamp


def _microseconds(since_epoch: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(since_epoch)
    return stamp
