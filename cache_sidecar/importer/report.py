"""The result of an import."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache_sidecar.importer.ids import Ids
from cache_sidecar.importer.parsers import Rejection


@dataclass
class ImportReport:
    """The counts of one import. A row is a record of the input; in the online-retail format, an order line."""

    source: str
    name: str
    "Of what is imported, such as products."
    format: str = ""
    rows_read: int = 0
    written: int = 0
    "Rows of the table that are new or changed."
    unchanged: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    "By reason code."
    left_out: Counter[str] = field(default_factory=Counter)
    "By reason code; what was skipped on purpose."
    seconds: float = 0.0
    rejects: Path | None = None
    "The file with the rejected and skipped rows, if there are any."

    ids: Ids = field(default_factory=Ids)
    deleted: int | None = None
    "Rows of the table that the file does not have; None if nothing was to be deleted."
    is_dry_run: bool = False
    problem: str = ""
    "Why nothing was deleted, though it was to be."

    def count(self, rejection: Rejection) -> None:
        """Counts one row that is not imported."""
        (self.left_out if rejection.left_out else self.rejected)[rejection.reason] += 1

    @property
    def exit_code(self) -> int:
        """1 if part of the input was rejected, or was not deleted as asked, else 0."""
        return 1 if self.rejected or self.problem else 0

    def lines(self) -> Iterator[str]:
        """Yields the report for a terminal."""
        speed = f", {self.rows_read / self.seconds:,.0f} rows/s" if self.seconds else ""
        yield f"{self.rows_read:,} rows read from {self.source} ({self.format}) in {self.seconds:.1f} s{speed}"
        if self.is_dry_run:
            yield f"{self.written:,} {self.name} can be imported; nothing was written (--dry-run)"
        else:
            yield f"{self.written:,} {self.name} written, {self.unchanged:,} unchanged"
        if self.problem:
            yield f"nothing was deleted: {self.problem}"
        elif self.deleted is not None:
            yield f"{self.deleted:,} {self.name} that are not in it {'would be deleted' if self.is_dry_run else 'deleted'}"
        yield from self.ids.lines()
        if self.left_out:
            yield f"{self.left_out.total():,} skipped: {_by_reason(self.left_out)}"
        if self.rejected:
            yield f"{self.rejected.total():,} rejected: {_by_reason(self.rejected)}"
        if self.rejects:
            yield f"the rows and their line numbers: {self.rejects}"


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
