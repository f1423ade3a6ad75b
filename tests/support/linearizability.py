"""Checks whether a recorded history is linearizable: whether each operation may have taken effect at one moment between its
call and its reply.

The algorithm is Wing and Gong's search (Testing and Verifying Concurrent Objects, 1993) with Lowe's memory of configurations
that were seen before (Testing for Linearizability, 2016), as in the checkers Porcupine and Knossos. It is exact. Reads that
fit the current state are linearized at once: no later position could be better.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call; times in seconds of one clock."""

    call: float
    reply: float
    "inf if there was no reply: then it may have happened at any time, or never."
    action: Any
    result: Any = None
    is_read: bool = False
    "Whether it does not change the state."
    may_be_stale: bool = False
    "Whether it may return a state from before its call; see `widened`."


@dataclass(frozen=True, kw_only=True)
class Model(Generic[S]):
    """A sequential model."""

    start: S
    step: Callable[[S, Operation], S | None]
    "Returns the state after an operation, or None when its result does not fit the state. Gets reads and writes alike."


def is_linearizable(history: Iterable[Operation], model: Model[S]) -> bool:
    """Returns whether some order of the operations explains all their results."""
    operations = sorted(history, key=lambda operation: operation.call)
    required = sum(1 << index for index, operation in enumerate(operations) if operation.reply != inf)
    waiting = [(0, model.start)]
    seen = set(waiting)
    while waiting:
        done, state = waiting.pop()
        if done & required == required:
            return True
        for index, after in _next(operations, done, state, model):
            configuration = done | 1 << index, after
            if configuration not in seen:
                seen.add(configuration)
                waiting.append(configuration)
    return False


def _next(operations: Sequence[Operation], done: int, state: S, model: Model[S]) -> list[tuple[int, S]]:
    """Returns the operations that can be next, and the states after them."""
    first_reply = inf
    found: list[tuple[int, S]] = []
    # The lowest bit that is not set.
    index = (~done & done + 1).bit_length() - 1
    while index < len(operations) and operations[index].call <= first_reply:
        operation = operations[index]
        if not done >> index & 1:
            first_reply = min(first_reply, operation.reply)
            after = model.step(state, operation)
            if after is not None:
                if operation.is_read:
                    return [(index, after)]
                found.append((index, after))
        index += 1
    return found


def widened(history: Iterable[Operation], seconds: float) -> list[Operation]:
    """Lets stale reads take effect up to that many seconds before their call (Golab's delta-atomicity)."""
    return [replace(one, call=one.call - seconds) if one.may_be_stale else one for one in history]


def staleness(history: Sequence[Operation], model: Model[S], *, at_most: float) -> float | None:
    """Returns the least bound, in seconds, within which operations were stale, to a thousandth of `at_most`; None if above."""
    if not is_linearizable(widened(history, at_most), model):
        return None
    low, high = 0.0, at_most
    while high - low > at_most / 1000:
        middle = (low + high) / 2
        if is_linearizable(widened(history, middle), model):
            high = middle
        else:
            low = middle
    return 0.0 if is_linearizable(history, model) else high
