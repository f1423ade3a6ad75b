"""Which keys are rolled out, and which changes of the policy empty the memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.tiers.path.rollout import empties_memory, is_in
from cache_sidecar.tiers.ports import PARTITIONS, partition_of
from tests.support.dataset_case import POLICY

KEYS = [f"SKU-{number:06}" for number in range(10_000)]
PERCENT = st.floats(0, 100)


@given(st.text(min_size=1), PERCENT, PERCENT)
def test_a_larger_rollout_only_adds_keys(key: str, one: float, other: float) -> None:
    assert is_in(key, min(one, other)) <= is_in(key, max(one, other))


@given(st.text())
def test_at_0_nobody_is_in_and_at_100_everybody(key: str) -> None:
    assert not is_in(key, 0)
    assert is_in(key, 100)


@pytest.mark.parametrize("percent", [0.5, 10, 50, 90])
def test_as_many_keys_are_in_as_said(percent: float) -> None:
    share = sum(is_in(key, percent) for key in KEYS) / len(KEYS) * 100
    assert share == pytest.approx(percent, abs=2)


def test_the_choice_is_the_same_in_every_version() -> None:
    # A rolling update must not move keys: these were in when this was written.
    first = [5, 12, 15, 23, 26, 31, 33, 35]
    assert [number for number in range(40) if is_in(KEYS[number], 25)] == first


def test_the_choice_has_nothing_to_do_with_the_partition() -> None:
    held = {partition_of(key) for key in KEYS if is_in(key, 10)}
    assert len(held) > PARTITIONS * 0.9


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, False),
        ({}, {"l2_ttl": 1.0, "stale_limit": 1.0, "shadow": True, "l2_enabled": False}, False),
        ({}, {"l1_enabled": False}, True),
        ({"l1_enabled": False}, {}, True),
        ({}, {"rollout": 99.0}, True),
        ({"rollout": 10.0}, {"rollout": 50.0}, False),
        ({}, {"l1_hard_ttl": 150.0}, False),
        ({"jitter": 0.1}, {"jitter": 0.1, "l1_hard_ttl": 150.0}, True),
        ({"jitter": 0.1}, {"jitter": 0.1, "l1_hard_ttl": 300.0}, False),
        ({"jitter": 0.1}, {"jitter": 0.1, "negative_ttl": 5.0}, True),
        ({"jitter": 0.1}, {"jitter": 0.05}, True),
    ],
)
def test_what_empties_the_memory(old: dict, new: dict, expected: bool) -> None:
    def changed(values: dict) -> DatasetPolicy:
        return POLICY.model_copy(update=values)

    assert empties_memory(changed(old), changed(new)) is expected
