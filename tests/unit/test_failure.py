"""The table of failures: every failure of every tier has its rule, and nothing is tried again that must not be."""

import pytest

from cache_sidecar.core.errors import Failure, Operation, Tier, TierFailed
from cache_sidecar.tiers.resilience.failure import TABLE, Action, action, tries


@pytest.mark.parametrize("failure", list(Failure))
@pytest.mark.parametrize(
    ("tier", "operation", "expected"),
    [
        (Tier.L2, Operation.READ, Action.FALL_BACK),
        (Tier.L2, Operation.FILL, Action.GO_ON),
        (Tier.L2, Operation.CHANGE, Action.LEAVE_TO_RELAY),
        (Tier.L2, Operation.WRITE, Action.REFUSE),
        (Tier.STORE, Operation.READ, Action.SERVE_STALE),
        (Tier.STORE, Operation.WRITE, Action.REFUSE),
        (Tier.MODEL, Operation.READ, Action.FALL_BACK),
    ],
)
def test_each_failure_has_its_action(tier: Tier, operation: Operation, failure: Failure, expected: Action) -> None:
    assert action(TierFailed(tier, failure), operation) is expected


def test_no_row_of_the_table_is_without_a_test() -> None:
    assert len(TABLE) == 7
    assert all(set(row) == set(Failure) for row in TABLE.values())


def test_a_write_is_never_acknowledged_without_postgresql() -> None:
    assert {rule.action for rule in TABLE[Tier.STORE, Operation.WRITE].values()} == {Action.REFUSE}


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.CONFLICT])
def test_a_write_that_may_be_committed_is_not_tried_again(failure: Failure) -> None:
    assert tries(TierFailed(Tier.STORE, failure), Operation.WRITE) == 1


@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.BUSY, Failure.REFUSED])
@pytest.mark.parametrize("key", TABLE)
def test_nothing_is_asked_again_that_is_slow_busy_or_clear(failure: Failure, key: tuple[Tier, Operation]) -> None:
    assert TABLE[key][failure].tries == 1
