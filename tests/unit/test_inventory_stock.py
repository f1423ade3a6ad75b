"""What caches keep of stock, and how rows are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.services import stock as shown
from cache_sidecar.store.inventory import row_ids, split_id
from cache_sidecar.tiers.ports import Answer, Source
from cache_sidecar.tiers.stock import Part, Stock, Total

numbers = st.integers(0, 2**62)
# No product_id has a control character.
product_ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(st.builds(Stock, numbers, numbers, st.integers(1, 64), numbers, numbers))
def test_a_stock_survives_being_packed(stock: Stock) -> None:
    assert Stock.unpack(stock.pack()) == stock


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


def _part(version: int, available: int, reserved: int = 0, buckets: int = 1) -> Part:
    return Part("a", Stock(available, reserved, buckets, 0, 1_000_000 * version), version)


def test_a_total_is_the_sum_of_its_rows() -> None:
    parts = [_part(7, 1, 10, buckets=2), _part(3, 5, 20)]
    answers = [Answer(b"", Source.L2, version, 0.0, stale=False) for version in (7, 3)]
    total = Total(parts, answers)
    assert (total.available, total.reserved, total.buckets, total.version) == (6, 30, 2, 7)
    message = shown.message("a", parts)
    assert (message.available, message.reserved, message.bucket_count, message.etag) == (6, 30, 2, "a-2")
    assert message.update_time.seconds == 7


def test_there_is_a_version_of_nothing() -> None:
    assert Total([], [Answer(None, Source.L2, 9, 0.0, stale=False)]).version == 9
    assert Total([], [Answer(None, Source.L2, 9, 0.0, stale=False)]).buckets == 1
