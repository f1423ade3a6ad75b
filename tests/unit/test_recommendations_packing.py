"""What caches keep of recommendations: what is packed comes back, and other bytes are none."""

import pytest

from cache_sidecar.recommendations.packing import (
    is_profile,
    is_row,
    pack_popular,
    pack_profile,
    pack_row,
    unpack_popular,
    unpack_profile,
    unpack_row,
)
from cache_sidecar.recommendations.rank import NOBODY, Profile
from cache_sidecar.recommendations.rows import ItemRow

ROW = ItemRow("a", {"b": 0.5, "ü": 0.25}, {"c": 0.75}, 1000.5)
PROFILE = Profile({"a": 1 / 3, "b": 0.1}, frozenset({"a", "b", "c"}))


def test_what_is_packed_comes_back() -> None:
    packed = pack_row(ROW)
    assert unpack_row("a", packed, also=False) == ROW._replace(also={})
    assert unpack_row("a", packed, also=True) == ROW._replace(together={})
    assert unpack_profile(pack_profile(PROFILE, 12.5)) == (PROFILE, 12.5)
    assert unpack_profile(pack_profile(NOBODY, 0.0)) == (NOBODY, 0.0)
    popular, time = unpack_popular(pack_popular({"b": 0.6, "a": 0.4}, 7.0))
    assert (list(popular.shares.items()), time) == ([("b", 0.6), ("a", 0.4)], 7.0)
    assert is_row("a", packed)
    assert is_profile("ann", pack_profile(PROFILE, 12.5))


def test_an_id_that_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        pack_row(ROW._replace(together={"b\nc": 1.0}))


@pytest.mark.parametrize("kind", [is_row, is_profile])
def test_other_bytes_are_not_taken_for_it(kind: object) -> None:
    assert callable(kind)
    packed = pack_row(ROW) if kind is is_row else pack_profile(PROFILE, 12.5)
    for length in range(len(packed) - 3):
        assert not kind("a", packed[:length])
    assert not kind("a", b"\x02" + packed[1:])
    assert not kind("a", packed + b"\n")
    assert not kind("a", packed + b"\xff")


@pytest.mark.parametrize(
    "row",
    [ROW._replace(together={"b": -0.5}), ROW._replace(also={"b": float("nan")}), ROW._replace(model_time=float("inf"))],
)
def test_numbers_that_no_model_has_are_not_taken_for_it(row: ItemRow) -> None:
    assert not is_row("a", pack_row(row))
