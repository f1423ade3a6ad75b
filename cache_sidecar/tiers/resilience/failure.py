"""What is done when a tier fails: the one table. Pure.

A rule says how often work is tried, and what its caller does when the last try failed, too. Only that is tried again which may
be done twice: what is read; what Redis is told, as every function of ours may be called again; and of writes those which
PostgreSQL rolled back because of another. A write whose connection broke may be committed: only its caller, who has the
request_id, can repeat it.
"""

from enum import Enum, auto
from typing import NamedTuple

from cache_sidecar.core.errors import Failure, Operation, Tier, TierFailed


class Action(Enum):
    """What to do about it."""

    FALL_BACK = auto()
    "Go on with the next tier."
    GO_ON = auto()
    "Go on without: nothing is lost but speed."
    LEAVE_TO_RELAY = auto()
    "Go on: the outbox row is committed, and the relay repeats it until it succeeds."
    SERVE_STALE = auto()
    "Answer with what L1 still holds, marked stale; without that, refuse."
    REFUSE = auto()
    "Tell the caller: UNAVAILABLE, or RESOURCE_EXHAUSTED when the tier is merely busy."


class Rule(NamedTuple):
    """What is done."""

    action: Action
    tries: int = 1


def _rules(action: Action, **tries: int) -> dict[Failure, Rule]:
    """Returns the same action for every failure, with the number of tries of those named."""
    return {failure: Rule(action, tries.get(failure.name.lower(), 1)) for failure in Failure}


TABLE: dict[tuple[Tier, Operation], dict[Failure, Rule]] = {
    # PostgreSQL answers sooner than a Redis that just failed. A connection that was dead already costs no try, see cluster.py.
    (Tier.L2, Operation.READ): _rules(Action.FALL_BACK),
    (Tier.L2, Operation.FILL): _rules(Action.GO_ON),
    # What Redis is not told now, other sidecars hear from the relay, up to a second later.
    (Tier.L2, Operation.CHANGE): _rules(Action.LEAVE_TO_RELAY, unreachable=2),
    (Tier.L2, Operation.WRITE): _rules(Action.REFUSE, unreachable=2),
    (Tier.STORE, Operation.READ): _rules(Action.SERVE_STALE, unreachable=2, conflict=3),
    (Tier.STORE, Operation.WRITE): _rules(Action.REFUSE, conflict=3),
}


def action(error: TierFailed, operation: Operation) -> Action:
    """Returns what is done in the end."""
    return TABLE[error.tier, operation][error.failure].action


def tries(error: TierFailed, operation: Operation) -> int:
    """Returns how often work that fails this way is tried."""
    return TABLE[error.tier, operation][error.failure].tries
