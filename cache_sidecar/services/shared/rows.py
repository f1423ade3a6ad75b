"""Rows of PostgreSQL become messages one at a time: one that cannot be read is left out, and never costs those beside it."""

from collections.abc import Callable
from typing import TypeVar

from cache_sidecar.core.errors import DataLoss, InvalidRequest
from cache_sidecar.store.values import Unreadable
from cache_sidecar.tiers.path.dataset import Dataset
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


def readable(make: Callable[[R], M], dataset: Dataset) -> Callable[[R], M | None]:
    """Returns `make` for the rows of a listing: None for one that cannot be read, which is counted and logged."""

    def make_or_note(row: R) -> M | None:
        found = read(row, make)
        if isinstance(found, UnreadableRow):
            dataset.note_unreadable(found)
            return None
        return found

    return make_or_note


def read_alone(row: R, make: Callable[[R], M], *, resource: str, id: str) -> M:
    """Returns what `make` makes of a row that was asked for by itself. Raises DataLoss."""
    found = read(row, make)
    if isinstance(found, UnreadableRow):
        raise DataLoss(resource, id, found.why)
    return found
