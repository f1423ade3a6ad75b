"""Converts rows of PostgreSQL to messages, one at a time: a row that cannot be read is left out, and affects no other."""

from collections.abc import Callable
from typing import TypeVar

from cache_sidecar.core.errors import DataLoss, InvalidRequest
from cache_sidecar.store.values import Unreadable
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import UnreadableRow

R = TypeVar("R", bound=tuple[object, ...])
M = TypeVar("M")
# Raised by messages for values of a wrong type or size: in rows that another program wrote, or that a view computes.
_UNFIT = (TypeError, ValueError, AttributeError, OverflowError, InvalidRequest)


def read(row: R, make: Callable[[R], M]) -> M | UnreadableRow:
    """Returns the row converted by `make`, or the reason why it cannot be."""
    for value in row:
        if isinstance(value, Unreadable):
            return UnreadableRow(value.why)
    try:
        return make(row)
    except _UNFIT as error:
        # Only the error's type: values do not belong into the log.
        return UnreadableRow(f"a value that does not fit its field ({type(error).__name__})")


def skip_unreadable(make: Callable[[R], M], dataset: Dataset) -> Callable[[R], M | None]:
    """Returns `make` for the rows of a listing; it returns None for a row that cannot be read, which is counted and logged."""

    def make_or_skip(row: R) -> M | None:
        found = read(row, make)
        if isinstance(found, UnreadableRow):
            dataset.note_unreadable(found)
            return None
        return found

    return make_or_skip


def read_alone(row: R, make: Callable[[R], M], *, resource: str, id: str) -> M:
    """Returns the one row that was requested, converted by `make`. Raises DataLoss when it cannot be."""
    found = read(row, make)
    if isinstance(found, UnreadableRow):
        raise DataLoss(resource, id, found.why)
    return found
