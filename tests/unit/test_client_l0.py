"""The Python client's own cache: what it may return, and what it must not."""

import pytest
from cache_sidecar_client import L0, Cache, Product, ProductChange
from cache_sidecar_client._l0 import ProductMemory


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def product(version: int, *, age: float = 0.0, stale: bool = False, id: str = "mug") -> Product:
    return Product(Product.of(id, title=f"version {version}").message, Cache("L1", version, age, stale))


def change(version: int, kind: str = "UPDATED", id: str = "mug") -> ProductChange:
    return ProductChange(kind, id, version, None, False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> ProductMemory:
    made = ProductMemory(L0(max_entries=3, max_age=5.0), clock)
    made.on_change(change(1, "WATCH_STARTED", ""))
    clock.now += 1
    return made


def read(memory: ProductMemory, found: Product) -> None:
    memory.put(found.product_id, found, memory.begin())


def test_a_product_is_returned_with_its_age(memory: ProductMemory, clock: Clock) -> None:
    read(memory, product(7, age=1.5))
    clock.now += 2
    found = memory.get("mug", None)
    assert found
    assert found.cache == ("L0", 7, 3.5, False)
    assert memory.get("cup", None) is None


def test_nothing_is_older_than_the_bound_or_than_the_caller_asks(memory: ProductMemory, clock: Clock) -> None:
    read(memory, product(7))
    clock.now += 4
    assert memory.get("mug", 3.0) is None
    assert memory.get("mug", 4.5)
    clock.now += 2
    assert memory.get("mug", None) is None


def test_a_change_drops_what_is_older_and_keeps_what_has_it(memory: ProductMemory) -> None:
    read(memory, product(7))
    memory.on_change(change(8))
    assert memory.get("mug", None) is None
    read(memory, product(8))
    memory.on_change(change(8))
    assert memory.get("mug", None)


def test_a_reply_that_a_change_overtook_is_not_stored(memory: ProductMemory, clock: Clock) -> None:
    # The read begins, the change is heard, the reply of before comes.
    began = memory.begin()
    clock.now += 0.01
    memory.on_change(change(8))
    memory.put("mug", product(7), began)
    assert memory.get("mug", None) is None


def test_nor_is_one_that_the_sidecar_still_had_after_the_change_was_heard(memory: ProductMemory, clock: Clock) -> None:
    memory.on_change(change(8))
    clock.now += 0.1
    read(memory, product(7, age=0.5))
    assert memory.get("mug", None) is None


def test_what_was_read_from_postgresql_after_the_change_is_stored_whatever_its_version(
    memory: ProductMemory, clock: Clock
) -> None:
    # Deleted with version 8, then restored from a backup with a lower one.
    memory.on_change(change(8, "DELETED"))
    clock.now += 1
    read(memory, product(7, age=0.5))
    assert memory.get("mug", None)


def test_changes_that_were_forgotten_still_count(memory: ProductMemory, clock: Clock) -> None:
    memory.on_change(change(8))
    clock.now += 1
    for number in range(3):
        memory.on_change(change(9 + number, id=f"other {number}"))
    read(memory, product(7, age=1.5))
    assert memory.get("mug", None) is None
    read(memory, product(7, age=0.5))
    assert memory.get("mug", None)


def test_it_is_empty_while_the_watch_is_broken(memory: ProductMemory, clock: Clock) -> None:
    read(memory, product(7))
    memory.on_break()
    assert memory.get("mug", None) is None
    read(memory, product(7))
    assert memory.get("mug", None) is None
    began = memory.begin()
    clock.now += 1
    memory.on_change(change(1, "WATCH_STARTED", ""))
    # A read from before the watch began may lack what happened in between.
    memory.put("mug", product(7), began)
    assert memory.get("mug", None) is None
    read(memory, product(7))
    assert memory.get("mug", None)


def test_stale_replies_and_older_versions_are_not_stored(memory: ProductMemory) -> None:
    read(memory, product(7, stale=True))
    assert memory.get("mug", None) is None
    read(memory, product(9))
    read(memory, product(7))
    found = memory.get("mug", None)
    assert found
    assert found.title == "version 9"


def test_it_is_bounded(memory: ProductMemory) -> None:
    for number in range(5):
        read(memory, product(7, id=f"{number}"))
    assert len(memory) == 3
    assert memory.get("0", None) is None
    assert memory.get("4", None)


def test_what_this_client_deletes_is_gone_at_once(memory: ProductMemory) -> None:
    read(memory, product(7))
    memory.drop("mug")
    assert memory.get("mug", None) is None
