"""What caches keep of stock, and how rows are named."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.core.errors import DeadlineExceeded, Failure, Tier, TierFailed
from cache_sidecar.inventory.stock import Bucket, BucketRecord, ProductStock, StockReader, belong_together, version_of
from cache_sidecar.services import inventory_messages as shown
from cache_sidecar.store.inventory import row_ids, split_id
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Answer, Freshness, Row, Source
from tests.support.gates import Gate

numbers = st.integers(0, 2**62)
# No product_id has a control character.
product_ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(st.builds(BucketRecord, numbers, numbers, st.integers(1, 64), numbers, numbers, numbers, numbers))
def test_a_stock_survives_being_packed(stock: BucketRecord) -> None:
    assert BucketRecord.unpack(stock.pack()) == stock


@pytest.mark.parametrize("foreign", [b"", b"\x01" + bytes(41), b"\x01" + bytes(57), b"\x02" + bytes(56), b"\x02" + bytes(58)])
def test_what_another_version_packed_is_not_read(foreign: bytes) -> None:
    assert BucketRecord.unpack(foreign) is None


@given(product_ids, st.integers(1, 64))
def test_every_row_has_a_name_of_its_own_that_says_whose_it_is(product_id: str, buckets: int) -> None:
    ids = row_ids(product_id, buckets)
    assert ids[0] == product_id
    assert len(set(ids)) == buckets
    assert [split_id(id) for id in ids] == [(product_id, bucket) for bucket in range(buckets)]


@pytest.mark.parametrize("id", ["a\x1f", "a\x1fx", "a\x1f-1", "a\x1f٣"])
def test_a_foreign_name_is_no_bucket(id: str) -> None:
    # Nothing of ours; at worst PostgreSQL finds no such row.
    assert split_id(id)[0] == "a"


def _part(version: int, available: int, reserved: int = 0, buckets: int = 1, epoch: int = 5, steps: int = 1) -> Bucket:
    return Bucket("a", BucketRecord(available, reserved, buckets, 0, 1_000_000 * version, epoch, steps), version)


def test_a_total_is_the_sum_of_its_rows() -> None:
    parts = [_part(7, 1, 10, buckets=2, steps=30), _part(3, 5, 20, steps=4)]
    answers = [Answer(b"", Source.L2, version, 0.0, stale=False) for version in (7, 3)]
    total = ProductStock(parts, answers)
    assert (total.available, total.reserved, total.buckets, total.version) == (6, 30, 2, 50_034)
    message = shown.make_message("a", parts)
    assert (message.available, message.reserved, message.bucket_count) == (6, 30, 2)
    assert message.etag.startswith(f"{50_034:x}-")
    assert message.update_time.seconds == 7


def test_there_is_a_version_of_nothing() -> None:
    assert ProductStock([], [Answer(None, Source.L2, 9, 0.0, stale=False)]).version == 90_000
    assert ProductStock([], [Answer(None, Source.L2, 0, 0.0, stale=False)], least_version=90_001).version == 90_001
    assert ProductStock([], [Answer(None, Source.L2, 9, 0.0, stale=False)]).buckets == 1


def test_rows_belong_together_that_are_all_of_one_epoch() -> None:
    assert belong_together([_part(7, 1)])
    assert belong_together([_part(7, 1, buckets=2), _part(3, 5, buckets=2)])
    assert not belong_together([_part(7, 1, buckets=3), _part(3, 5, buckets=3)])
    assert not belong_together([_part(7, 1, buckets=1), _part(3, 5)])
    assert not belong_together([_part(7, 1, buckets=2, epoch=6), _part(3, 5, buckets=2)])


def test_an_etag_tells_two_states_apart_that_have_one_version() -> None:
    # Six changes, three of which each of two readers does not know of yet; their steps happen to add up to the same.
    one = [_part(7, 1, buckets=2, steps=3), _part(3, 5, steps=4)]
    other = [_part(6, 1, buckets=2, steps=2), _part(4, 5, steps=5)]
    assert version_of(one) == version_of(other)
    assert shown.make_etag(one) != shown.make_etag(other)


class HalfSeen(Dataset):
    """Rows of 2 buckets, of two epochs: Redis was told of the change of one, PostgreSQL says what it is told to."""

    def __init__(self, whole: Mapping[str, Row] | TierFailed) -> None:
        self.whole = whole
        self.held = Gate()

    async def get_many(self, ids: Iterable[str], _wanted: Freshness = ANY) -> dict[str, Answer]:
        rows = {id: BucketRecord(5, 0, 2, 0, 0, epoch, 1) for epoch, id in enumerate(row_ids("a", 2), 7)}
        return {id: Answer(rows[id].pack(), Source.L2, 1, 0.0, stale=False) for id in ids}

    async def read_together(self, load: Callable[[], Awaitable[Mapping[str, Row]]]) -> dict[str, Answer]:
        await self.held.passed()
        rows = await load()
        return {id: Answer(row.value, Source.STORE, row.version, 0.0, stale=False) for id, row in rows.items()}

    async def load(self, _product_ids: Sequence[str]) -> Mapping[str, Row]:
        """Reads all rows of products."""
        if isinstance(self.whole, TierFailed):
            raise self.whole
        return self.whole

    def stocks(self) -> StockReader:
        """Returns what reads the stock."""
        return StockReader(self, row_ids=row_ids, load_whole=self.load)


async def test_what_does_not_belong_together_is_read_whole() -> None:
    whole = {"a": Row(9, BucketRecord(7, 1, 1, 0, 0, 9, 1).pack())}
    total = await HalfSeen(whole).stocks().get("a")
    assert (total.available, total.reserved, total.buckets, total.version, total.source) == (7, 1, 1, 90_001, Source.STORE)
    assert (await HalfSeen({}).stocks().get("a")).parts == []


async def test_without_postgresql_a_half_of_a_change_is_an_error_and_no_sum() -> None:
    with pytest.raises(TierFailed):
        await HalfSeen(TierFailed(Tier.STORE, Failure.UNREACHABLE)).stocks().get("a")


async def test_nobody_waits_longer_for_the_whole_than_his_deadline() -> None:
    rows = HalfSeen({})
    rows.held.close()
    stocks = rows.stocks()
    with pytest.raises(DeadlineExceeded):
        await stocks.get("a", Freshness(until=asyncio.get_running_loop().time()))
    rows.held.open()
    await stocks.close()
