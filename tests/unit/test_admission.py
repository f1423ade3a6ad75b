"""Admission: what is less important is refused earlier, and every call that ends makes room."""

import pytest

from cache_sidecar.core.errors import Overloaded
from cache_sidecar.server.limiter import Admission, Limiter, Priority


def fill(limiter: Limiter) -> int:
    """Has calls come in until one is refused, and returns how many did."""
    for entered in range(1000):
        try:
            limiter.acquire()
        except Overloaded:
            return entered
    raise AssertionError("nobody was refused")


def test_the_limit_is_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Admission(0, each=1)
    with pytest.raises(ValueError, match="at least 1"):
        Admission(1, each=0)


def test_the_last_part_is_for_what_matters_most() -> None:
    admission = Admission(100, each=100)
    low, normal, vital = (admission.limiter(one.name, one) for one in (Priority.LOW, Priority.NORMAL, Priority.VITAL))
    assert [fill(low), fill(normal), fill(vital)] == [50, 30, 20]
    assert (low.inside, normal.inside, vital.inside, admission.inside) == (50, 30, 20, 100)


def test_a_call_that_ends_makes_room_first_for_what_matters_most() -> None:
    admission = Admission(10, each=10)
    normal, vital = admission.limiter("product", Priority.NORMAL), admission.limiter("cart", Priority.VITAL)
    fill(vital)
    vital.release()
    with pytest.raises(Overloaded, match="product"):
        normal.acquire()
    vital.acquire()
    assert (normal.refused, vital.refused) == (1, 1)


def test_one_call_of_each_kind_fits_into_the_smallest_limit() -> None:
    for priority in Priority:
        assert fill(Admission(1, each=1).limiter("x", priority)) == 1


def test_the_limit_can_be_moved_at_any_time() -> None:
    admission = Admission(10, each=10)
    limiter = admission.limiter("cart", Priority.VITAL)
    fill(limiter)
    admission.limit = 5
    for _ in range(6):
        limiter.release()
    limiter.acquire()
    with pytest.raises(Overloaded):
        limiter.acquire()


def test_no_dataset_fills_what_there_is() -> None:
    admission = Admission(10, each=6)
    cart, inventory = admission.limiter("cart", Priority.VITAL), admission.limiter("inventory", Priority.VITAL)
    assert [fill(cart), fill(inventory)] == [6, 4]
    inventory.release()
    with pytest.raises(Overloaded, match="6 calls of cart"):
        cart.acquire()
    cart.release()
    cart.acquire()
    assert (cart.refused, admission.inside) == (2, 9)
