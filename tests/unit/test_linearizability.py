"""The checker of linearizability: histories it has to accept, and planted errors it has to find."""

import random
from itertools import permutations
from math import inf
from typing import Any

import pytest

from tests.support.linearizability import Model, Operation, is_linearizable, staleness, widened
from tests.support.stock_model import REFUSED, End, Get, Reserve, model


def _register(state: int, operation: Operation) -> int | None:
    if operation.action == "read":
        return state if operation.result == state else None
    return int(operation.action)


REGISTER = Model(start=0, step=_register)


def op(call: float, reply: float, action: Any, result: Any = None, **more: bool) -> Operation:
    is_read = action == "read" or isinstance(action, Get) or result == REFUSED
    return Operation(call=call, reply=reply, action=action, result=result, is_read=is_read, **more)


def test_one_after_the_other() -> None:
    history = [op(0, 1, 1), op(2, 3, "read", 1), op(4, 5, 2), op(6, 7, "read", 2)]
    assert is_linearizable(history, REGISTER)
    assert not is_linearizable([*history, op(8, 9, "read", 1)], REGISTER)
    assert is_linearizable([], REGISTER)


def test_what_overlaps_may_come_in_any_order() -> None:
    writes = [op(0, 10, 1), op(0, 10, 2)]
    for last in (1, 2):
        assert is_linearizable([*writes, op(11, 12, "read", last)], REGISTER)
    assert is_linearizable([*writes, op(1, 2, "read", 0), op(3, 4, "read", 2), op(5, 6, "read", 1)], REGISTER)
    assert not is_linearizable([*writes, op(1, 2, "read", 2), op(3, 4, "read", 1), op(5, 6, "read", 2)], REGISTER)


def test_what_got_no_reply_may_have_happened_or_not() -> None:
    lost = op(0, inf, 1)
    assert is_linearizable([lost, op(5, 6, "read", 0)], REGISTER)
    assert is_linearizable([lost, op(5, 6, "read", 1), op(7, 8, "read", 1)], REGISTER)
    assert is_linearizable([lost, op(5, 6, "read", 0), op(7, 8, "read", 1)], REGISTER)
    assert not is_linearizable([lost, op(5, 6, "read", 1), op(7, 8, "read", 0)], REGISTER)


def test_a_stale_read_fits_within_its_bound_only() -> None:
    history = [op(0, 1, 1), op(3, 4, "read", 0, may_be_stale=True), op(5, 6, "read", 1)]
    assert not is_linearizable(history, REGISTER)
    assert not is_linearizable(widened(history, 1.9), REGISTER)
    assert is_linearizable(widened(history, 2.1), REGISTER)
    bound = staleness(history, REGISTER, at_most=10)
    assert bound is not None
    assert 1.99 < bound < 2.02
    assert staleness(history, REGISTER, at_most=1) is None
    assert staleness(history[:1], REGISTER, at_most=1) == 0.0


def brute_force(history: list[Operation]) -> bool:
    def explains(order: tuple[Operation, ...]) -> bool:
        state: int | None = 0
        for index, one in enumerate(order):
            if any(later.reply < one.call for later in order[index + 1 :]):
                return False
            state = _register(state, one)
            if state is None:
                return False
        return True

    return any(explains(order) for order in permutations(history))


@pytest.mark.parametrize("seed", range(150))
def test_it_agrees_with_trying_every_order(seed: int) -> None:
    chance = random.Random(seed)
    history = []
    for _ in range(6):
        call = chance.randint(0, 8)
        action = chance.choice(["read", 1, 2])
        history.append(op(call, call + chance.randint(1, 6), action, chance.randint(0, 2) if action == "read" else None))
    assert is_linearizable(history, REGISTER) is brute_force(history)


def test_both_verdicts_come_up_among_the_histories_tried() -> None:
    verdicts = set()
    for seed in range(150):
        chance = random.Random(seed)
        calls = [(chance.randint(0, 8), chance.randint(1, 6)) for _ in range(6)]
        verdicts.add(brute_force([op(c, c + d, "read" if i % 2 else 1 + i // 2, 1) for i, (c, d) in enumerate(calls)]))
    assert verdicts == {True, False}


GOOD = [
    op(0, 1, Reserve(2), "r1"),
    op(2, 3, Get(), (1, 2)),
    op(4, 5, Reserve(2), REFUSED),
    op(6, 7, End("r1", "released"), "released"),
    op(8, 9, End("r1", "released"), "released"),
    op(8, 9, End("r1", "committed"), REFUSED),
    op(10, 11, Reserve(3), "r2"),
    op(12, 13, End("r2", "committed"), "committed"),
    op(14, 15, Get(), (0, 0)),
]


def test_a_good_history_of_a_stock() -> None:
    assert is_linearizable(GOOD, model(3))


PLANTED = {
    "sold twice": [op(0, 1, Reserve(2), "r1"), op(2, 3, Reserve(2), "r2")],
    "sold twice at once": [op(0, 9, Reserve(2), "r1"), op(0, 9, Reserve(2), "r2")],
    "refused though there is enough": [op(0, 1, Reserve(1), REFUSED)],
    "given back twice": [*GOOD[:5], op(10, 11, Get(), (5, 0))],
    "committed and released": [
        op(0, 1, Reserve(1), "r"),
        op(2, 9, End("r", "committed"), "committed"),
        op(2, 9, End("r", "released"), "released"),
    ],
    "ended before it was made": [op(0, 1, End("r", "released"), "released"), op(2, 3, Reserve(1), "r")],
    "refused to end though held": [op(0, 1, Reserve(1), "r"), op(2, 3, End("r", "released"), REFUSED)],
    "a commit forgotten": [op(0, 1, Reserve(1), "r"), op(2, 3, End("r", "committed"), "committed"), op(4, 5, Get(), (3, 0))],
    "a read of the past": [op(0, 1, Reserve(1), "r"), op(2, 3, Get(), (3, 0))],
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name: str) -> None:
    assert not is_linearizable(PLANTED[name], model(3))


def test_a_reservation_without_a_reply_may_hold_pieces() -> None:
    lost = op(0, inf, Reserve(2))
    assert is_linearizable([lost, op(2, 3, Get(), (1, 2))], model(3))
    assert is_linearizable([lost, op(2, 3, Get(), (3, 0))], model(3))
    assert not is_linearizable([lost, op(2, 3, Get(), (1, 2)), op(4, 5, Get(), (3, 0))], model(3))
