"""Which writes count as told to Redis."""

import pytest

from tests.consistency.rules.told import LOOKS, Failed, Look, Told


def told(*looks: tuple[float, float, int]) -> Told:
    made = Told()
    for called, replied, errors in looks:
        made.looked(0, Look(called, replied, errors))
    return made


@pytest.mark.parametrize(
    ("looks", "was_told"),
    [
        (((9.0, 9.5, 3), (11.5, 12.0, 3)), True),
        (((9.0, 9.5, 3), (11.5, 12.0, 4)), False),  # something failed
        (((9.0, 9.5, 2), (10.4, 10.6, 3), (11.5, 12.0, 3)), False),  # before the look that was taken meanwhile
        (((9.0, 9.5, 3), (10.4, 10.6, 3)), False),  # nobody looked since
        (((10.4, 10.6, 3), (11.5, 12.0, 3)), False),  # or before
        (((8.0, 8.5, 2), (9.0, 9.5, 3), (11.5, 12.0, 3), (13.0, 13.5, 4)), True),  # it failed earlier, or later
        ((), False),
    ],
)
def test_a_write_counts_as_told_if_nothing_failed_around_it(
    looks: tuple[tuple[float, float, int], ...], was_told: bool
) -> None:
    assert told(*looks).was_told(0, 10.0, 11.0) is was_told
    assert not told(*looks).was_told(1, 10.0, 11.0)


def test_old_looks_are_forgotten() -> None:
    made = told(*((float(number), number + 0.5, 0) for number in range(2 * LOOKS)))
    assert not made.was_told(0, 100.0, 101.0)
    assert made.was_told(0, LOOKS + 100.0, LOOKS + 101.0)


@pytest.mark.parametrize(
    ("looks", "failed"),
    [
        ([Look(9.5, 9.6, 3, 1), Look(10.1, 10.2, 4, 1)], Failed(store=False, relay=False)),  # what failed on Redis is no excuse
        ([Look(9.5, 9.6, 3, 1), Look(10.1, 10.2, 3, 2)], Failed(store=True, relay=False)),
        ([Look(9.5, 9.6, 3, 1, is_behind=True), Look(10.1, 10.2, 3, 1)], Failed(store=False, relay=True)),
        (
            [Look(9.5, 9.6, 3, 1), Look(9.95, 10.05, 3, 1, is_behind=True), Look(10.1, 10.2, 3, 1)],
            Failed(store=False, relay=True),
        ),
        ([Look(9.5, 9.6, 3, 1), Look(10.1, 10.2, 3, 1, is_behind=True)], Failed(store=False, relay=True)),
        ([Look(9.5, 9.6, 3, 1), Look(10.05, 10.2, 3, 1)], None),  # nobody looked since
        ([Look(9.9, 10.05, 3, 1), Look(10.1, 10.2, 3, 1)], Failed(store=True, relay=True)),  # or before, and nobody will
        ([Look(9.0, 9.1, 3, 1), Look(10.1, 10.2, 3, 1)], Failed(store=False, relay=False)),
        ([Look(9.0, 9.05, 3, 1), Look(10.1, 10.2, 3, 1)], Failed(store=True, relay=True)),  # too long ago to be sure
    ],
)
def test_what_may_have_failed_around_a_read(looks: list[Look], failed: Failed | None) -> None:
    made = Told()
    for look in looks:
        made.looked(0, look)
    assert made.failed(0, 10.0, 10.1) == failed
