"""What is done when a tier fails: the one table. Pure.

A rule says how often work is tried, and what its caller does when the last try has failed, too. Only work that may be done
twice is retried: reads; changes in Redis, as each of our functions may be called again; and of writes those that PostgreSQL
rolled back because of a conflict. A write whose connection broke may be committed: only its caller, with the request_id, can
repeat it.
"""

from enum import Enum, auto
from typing import NamedTuple

from cache_sidecar.core.errors import Failure, Operation, Tier, TierFailed


class Action(Enum):
    """What the caller does."""

    FALL_BACK = auto()
    "Go on with the next tier."
    GO_ON = auto()
    "Go on without it: nothing is lost but speed."
    LEAVE_TO_RELAY = auto()
    "Go on: the outbox row is committed, and the relay publishes it until that succeeds."
    SERVE_STALE = auto()
    "Answer with what the caches still hold, marked stale; if they hold nothing, refuse."
    REFUSE = auto()
    "Fail the call: UNAVAILABLE, or RESOURCE_EXHAUSTED when the tier is merely busy."


class Rule(NamedTuple):
    """How often work is tried, and what follows."""

    action: Action
    tries: int = 1


def _rules(action: Action, **tries: int) -> dict[Failure, Rule]:
    """Returns one action for every failure; `tries` by name of the failure, 1 for the others."""
    return {failure: Rule(action, tries.get(failure.name.lower(), 1)) for failure in Failure}


TABLE: dict[tuple[Tier, Operation], dict[Failure, Rule]] = {
    # PostgreSQL answers sooner than a Redis that just failed. A connection that was dead already costs no try, see node.py.
    (Tier.L2, Operation.READ): _rules(Action.FALL_BACK),
    (Tier.L2, Operation.FILL): _rules(Action.GO_ON),
    # What cannot be published now, the relay publishes up to a second later.
    (Tier.L2, Operation.CHANGE): _rules(Action.LEAVE_TO_RELAY, unreachable=2),
    (Tier.L2, Operation.WRITE): _rules(Action.REFUSE, unreachable=2),
    (Tier.STORE, Operation.READ): _rules(Action.SERVE_STALE, unreachable=2, conflict=3),
    (Tier.STORE, Operation.WRITE): _rules(Action.REFUSE, conflict=3),
    # Its caller has other generators.
    (Tier.MODEL, Operation.READ): _rules(Action.FALL_BACK),
}


def action(error: TierFailed, operation: Operation) -> Action:
    """Returns what the caller does after the last try."""
    return TABLE[error.tier, operation][error.failure].action


def tries(error: TierFailed, operation: Operation) -> int:
    """Returns how often work that fails this way is tried."""
    return TABLE[error.tier, operation][error.failure].tries
