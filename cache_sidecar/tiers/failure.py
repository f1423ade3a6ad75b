"""What is done when a tier fails: the one table. Pure."""

from enum import Enum, auto

from cache_sidecar.errors import Failure, Tier, TierFailed


class Operation(Enum):
    """What was being done."""

    READ = auto()
    FILL = auto()
    CHANGE = auto()
    WRITE = auto()


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


TABLE: dict[tuple[Tier, Operation], dict[Failure, Action]] = {
    (Tier.L2, Operation.READ): dict.fromkeys(Failure, Action.FALL_BACK),
    (Tier.L2, Operation.FILL): dict.fromkeys(Failure, Action.GO_ON),
    (Tier.L2, Operation.CHANGE): dict.fromkeys(Failure, Action.LEAVE_TO_RELAY),
    (Tier.L2, Operation.WRITE): dict.fromkeys(Failure, Action.REFUSE),
    (Tier.STORE, Operation.READ): dict.fromkeys(Failure, Action.SERVE_STALE),
    (Tier.STORE, Operation.WRITE): dict.fromkeys(Failure, Action.REFUSE),
}


def action(error: TierFailed, operation: Operation) -> Action:
    """Returns what the table says."""
    return TABLE[error.tier, operation][error.failure]
