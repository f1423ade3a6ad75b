"""What is remembered of sold-out stock, and when it is believed no longer."""

import pytest

from cache_sidecar.inventory.sold_out import KEPT, SoldOut
from cache_sidecar.inventory.stock import BucketRecord
from cache_sidecar.store.inventory import row_ids
from cache_sidecar.tiers.ports import PARTITIONS, Record, partition_of
from tests.support.clocks import ManualClock


class Held:
    """A SoldOut whose announcements are heard."""

    def __init__(self) -> None:
        self.clock = ManualClock(1000.0)
        self.l1 = SoldOut(row_ids=row_ids, clock=self.clock)
        for partition in range(PARTITIONS):
            self.l1.set_trusted(partition, True, now=0.0)

    def put(
        self, id: str, available: int, version: int, *, buckets: int = 1, epoch: int = 5, generation: int | None = None
    ) -> bool:
        record = Record(version, 0.0, BucketRecord(available, 7, buckets, 3, 0, epoch, 1).pack())
        return self.l1.put(
            id,
            record,
            generation=self.l1.generation(id) if generation is None else generation,
            expires_from=self.clock.now() + 60,
        )

    def knows(self, id: str) -> bool:
        return bool(self.l1.parts(id))


@pytest.fixture
def held() -> Held:
    return Held()


def test_only_what_is_sold_out_is_remembered_and_only_for_a_moment(held: Held) -> None:
    assert held.put("a", 0, 5)
    assert not held.put("b", 1, 5)
    assert not held.l1.put("c", Record(5, 0.0, None), generation=held.l1.generation("c"), expires_from=0.0)
    assert [part.version for part in held.l1.parts("a")] == [5]
    assert not held.knows("b")
    assert not held.knows("c")
    held.clock.advance(KEPT * 0.9)
    assert held.knows("a")
    held.clock.advance(KEPT * 0.2)
    assert not held.knows("a")


def test_reads_of_stock_get_nothing_of_it(held: Held) -> None:
    held.put("a", 0, 5)
    assert held.l1.get("a") is None
    assert held.l1.stats().entries == 1


def test_a_clock_set_back_keeps_nothing_for_longer(held: Held) -> None:
    held.put("a", 0, 5)
    held.clock.advance(-1.0)
    assert not held.knows("a")


def test_news_end_it_at_once(held: Held) -> None:
    held.put("a", 0, 5)
    held.l1.drop("a", 5)
    assert held.knows("a")
    held.l1.drop("a", 6)
    assert not held.knows("a")
    # Nor does an older read bring it back, or one that began before it was to be read again.
    assert not held.put("a", 0, 5)
    before = held.l1.generation("a")
    held.l1.drop("a", 0)
    assert not held.put("a", 0, 6, generation=before)
    assert held.put("a", 0, 6)


def test_a_newer_read_that_found_some_ends_it(held: Held) -> None:
    held.put("a", 0, 5)
    assert not held.put("a", 2, 6)
    assert not held.knows("a")


def test_nothing_is_believed_while_announcements_may_be_missing(held: Held) -> None:
    held.put("a", 0, 5)
    held.l1.set_trusted(partition_of("a"), False, now=0.0)
    assert not held.knows("a")
    assert not held.put("a", 0, 5)
    held.l1.set_trusted(partition_of("a"), True, now=0.0)
    held.l1.drop_partition(partition_of("a"))
    assert not held.knows("a")


def test_a_product_of_several_rows_is_sold_out_when_all_of_them_are(held: Held) -> None:
    first, second, third = row_ids("a", 3)
    held.put(first, 0, 5, buckets=3)
    held.put(second, 0, 6, buckets=3)
    assert not held.knows("a")
    held.put(third, 0, 7, buckets=3)
    assert [(part.id, part.version) for part in held.l1.parts("a")] == [(first, 5), (second, 6), (third, 7)]
    held.l1.drop(second, 8)
    assert not held.knows("a")


def test_rows_of_before_and_after_a_change_of_the_buckets_say_nothing(held: Held) -> None:
    first, second = row_ids("a", 2)
    held.put(first, 0, 5, buckets=2, epoch=4)
    held.put(second, 0, 6, buckets=2, epoch=3)
    assert not held.knows("a")
    held.put(second, 0, 7, buckets=2, epoch=4)
    assert held.knows("a")


def test_while_redis_is_told_too_late_it_says_nothing(held: Held) -> None:
    held.put("a", 0, 5)
    held.l1.set_lagging(partition_of("a"), True)
    assert not held.knows("a")
    held.l1.set_lagging(partition_of("a"), False)
    assert held.knows("a")


def test_what_another_version_packed_is_not_remembered(held: Held) -> None:
    assert not held.l1.put("a", Record(5, 0.0, b"\x01"), generation=held.l1.generation("a"), expires_from=0.0)


def test_in_shadow_it_says_nothing_and_cleared_it_knows_nothing() -> None:
    shadow = [False]
    l1 = SoldOut(row_ids=row_ids, clock=ManualClock(1000.0), in_shadow=lambda: shadow[0])
    l1.set_trusted(partition_of("a"), True, now=0.0)
    generation = l1.generation("a")
    assert l1.put("a", Record(5, 0.0, BucketRecord(0, 7, 1, 3, 0, 5, 1).pack()), generation=generation, expires_from=0.0)
    assert l1.parts("a")
    shadow[0] = True
    assert not l1.parts("a")
    shadow[0] = False
    assert l1.parts("a")
    l1.clear()
    assert not l1.parts("a")
    assert not l1.put("a", Record(5, 0.0, BucketRecord(0, 7, 1, 3, 0, 5, 1).pack()), generation=generation, expires_from=0.0)
