"""Rows of PostgreSQL become messages one at a time: one that cannot be read is left out, and never costs those beside it."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from cache_sidecar.errors import DataLoss, InvalidRequest
from cache_sidecar.store.values import Unreadable
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.tiers.ports import UnreadableRow

R = TypeVar("R", bound=tuple[object, ...])
M = TypeVar("M")
# What messages raise for values of a wrong type or size, which are in rows that others wrote, or that views make.
_UNFIT = (TypeError, ValueError, AttributeError, OverflowError, InvalidRequest)


def read(row: R, make: Callable[[R], M]) -> M | UnreadableRow:
    """Returns what `make` makes of a row, or why it cannot."""
    for value in row:
        if isinstance(value, Unreadable):
            return UnreadableRow(value.why)
    try:
        return make(row)
    except _UNFIT as error:
        # Its name alone: what a value is, is not for the log.
        return UnreadableRow(f"a value that is none of its field's ({type(error).__name__})")


def readable(rows: Iterable[R], make: Callable[[R], M], dataset: Dataset) -> list[M]:
    """Returns what `make` makes of the rows of a listing; those that cannot be read are counted and logged instead."""
    made = []
    for row in rows:
        found = read(row, make)
        if isinstance(found, UnreadableRow):
            dataset.note_unreadable(found)
        else:
            made.append(found)
    return made


def read_alone(row: R, make: Callable[[R], M], *, resource: str, id: str) -> M:
    """Returns what `make` makes of a row that was asked for by itself. Raises DataLoss."""
    found = read(row, make)
    if isinstance(found, UnreadableRow):
        raise DataLoss(resource, id, found.why)
    return found
