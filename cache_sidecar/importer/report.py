"""What an import did."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache_sidecar.importer.parsers import Rejection


@dataclass
class ImportReport:
    """Counts of one import. A row is a record of the input; in the online-retail format an order line."""

    source: str
    noun: str
    "In the plural, such as products."
    format: str = ""
    rows_read: int = 0
    written: int = 0
    "Rows of the table that are new or changed."
    unchanged: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    "By reason code."
    left_out: Counter[str] = field(default_factory=Counter)
    "By reason code; left out on purpose."
    seconds: float = 0.0
    rejects: Path | None = None
    "The file with the rejected rows and those left out, if there are any."

    def count(self, rejection: Rejection) -> None:
        """Counts one row that is not imported."""
        (self.left_out if rejection.left_out else self.rejected)[rejection.reason] += 1

    @property
    def exit_code(self) -> int:
        """1 if part of the input was rejected, else 0."""
        return 1 if self.rejected else 0

    def lines(self) -> Iterator[str]:
        """Yields the report for a terminal."""
        speed = f", {self.rows_read / self.seconds:,.0f} rows/s" if self.seconds else ""
        yield f"{self.rows_read:,} rows read from {self.source} ({self.format}) in {self.seconds:.1f} s{speed}"
        yield f"{self.written:,} {self.noun} written, {self.unchanged:,} unchanged"
        if self.left_out:
            yield f"{self.left_out.total():,} left out: {_by_reason(self.left_out)}"
        if self.rejected:
            yield f"{self.rejected.total():,} rejected: {_by_reason(self.rejected)}"
        if self.rejects:
            yield f"each of them with its line number: {self.rejects}"


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
