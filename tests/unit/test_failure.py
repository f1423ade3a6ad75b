"""The failure table: every failure of every tier has an action."""

import pytest

from cache_sidecar.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.failure import TABLE, Action, Operation, action


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
    ],
)
def test_each_failure_has_its_action(tier: Tier, operation: Operation, failure: Failure, expected: Action) -> None:
    assert action(TierFailed(tier, failure), operation) is expected


def test_no_row_of_the_table_is_without_a_test() -> None:
    assert len(TABLE) == 6
    assert all(set(row) == set(Failure) for row in TABLE.values())


def test_a_write_is_never_acknowledged_without_postgresql() -> None:
    assert set(TABLE[Tier.STORE, Operation.WRITE].values()) == {Action.REFUSE}
