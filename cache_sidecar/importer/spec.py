"""What an import specifies about a dataset; `datasets.py` lists them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.importer.parsers import Rejection, Row
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.store.bulk import Bulk

# Not `items`, which carts have themselves.
_WRAPPERS = frozenset({"data", "records", "results", "rows"})

TableRow = dict[str, Any]
"""Values for columns of the table, by column name."""
ParseRow = Callable[[Mapping[str, Any]], TableRow]
"""Turns the values of a row of the input into a row of the table. Raises RowRejected."""


class Aggregator(Protocol):
    """Builds rows of the table from several rows of the input."""

    def add(self, row: Row) -> None:
        """Adds a row of the input. Raises RowRejected."""
        ...

    def rows(self) -> Iterator[TableRow | Rejection]:
        """Yields the rows of the table, when the input is read to its end."""
        ...


class Parts(NamedTuple):
    """What rows may be checked against."""

    settings: Callable[[], Settings]
    policy: Callable[[], DatasetPolicy]
    "The policy of the dataset. Like the settings it is read only by imports that need it."
    clock: Clock = SystemClock()


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """How `cache-sidecar import NAME` imports a dataset."""

    name: str
    "Such as products."
    description: str = ""
    "What is imported, for the help of the command; the name if not given."
    bulk: type[Bulk]
    headers: Mapping[str, Header]
    "The header of each CSV format."
    parsers: Callable[[Parts], Mapping[str, ParseRow]]
    "Returns a parser for each format that has no aggregator; CSV and JSON Lines are always among the formats."
    aggregators: Mapping[str, Callable[[], Aggregator]] = field(default_factory=dict)
    "By format."
    has_currency: bool = False
    "Whether `--currency` is an option, for files in which the rows have none."
    has_whole_rows: bool = False
    "Whether a row is all that the file has of its id, so that an id that comes twice is worth a word."
    can_delete: bool = False
    "Whether `--delete-missing` is an option."
    is_secret: bool = False
    "Whether only the line number and the reason of rejected rows may be kept."

    @property
    def formats(self) -> Sequence[str]:
        """The values of `--format`."""
        return list(dict.fromkeys((CSV, JSON_LINES, *self.aggregators, *self.headers)))

    @property
    def wrappers(self) -> Collection[str]:
        """The names under which an object in JSON may have the array of all rows; none that a row itself has."""
        return (_WRAPPERS | {self.name}) - self.headers[CSV].names.keys()
