"""Rates and tables of the commands for people on call."""

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.terminal import keys, policies, table, top
from cache_sidecar.terminal.status import Counts
from cache_sidecar.v1 import admin_service_pb2 as pb


def test_rates_are_differences_and_begin_anew_after_a_restart() -> None:
    before = {"product": Counts(10, 5, 2, 1, 7, 70), "cart": Counts(100, 0, 0, 0, 0, 0)}
    now = {"product": Counts(30, 6, 4, 1, 8, 80), "cart": Counts(3, 0, 0, 0, 0, 0), "new": Counts(1, 1, 1, 1, 1, 1)}
    assert top.rates(before, now) == {"product": Counts(20, 1, 2, 0, 8, 80), "cart": now["cart"], "new": now["new"]}


@pytest.mark.parametrize(
    ("value", "text"), [(0.0312, "0.031 s"), (12.4, "12 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_durations_have_a_unit(value: float, text: str) -> None:
    assert table.seconds(value) == text


def test_a_tier_that_is_out_of_date_is_named() -> None:
    rows = [
        pb.HeldKey(key="a", tier="l1", state=pb.KEY_STATE_VALUE, version=3, known_version=3, served=True),
        pb.HeldKey(key="a", tier="l2", problem="not reachable"),
        pb.HeldKey(key="a", tier="store", state=pb.KEY_STATE_VALUE, version=4, served=True),
    ]
    rows[0].known_version = 5
    assert list(keys.lines(pb.InspectKeyResponse(tiers=rows)))[4:] == [
        "a: l1 is out of date: version 3, elsewhere 4",
        "a: l1 was told of version 5, which no tier holds",
        "a: l2 could not be read: not reachable",
    ]


def test_a_change_is_of_one_dataset() -> None:
    request = policies.parse(["product.l2_ttl=1.5", "product.shadow=true"], ["product.jitter"])
    assert (request.policy.l2_ttl.ToMilliseconds(), request.policy.shadow) == (1500, True)
    assert (list(request.update_mask.paths), list(request.reset_mask.paths)) == (["l2_ttl", "shadow"], ["jitter"])
    with pytest.raises(InputError, match="one dataset at a time, not both product and cart"):
        policies.parse(["product.l2_ttl=1"], ["cart.jitter"])
