"""The file of rows that were not imported, so that they can be corrected."""

import csv
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.parsers import Rejection
from cache_sidecar.importer.source import STDIN

HEADER = ("line", "reason", "message", "raw")


def default_path(source: str) -> Path:
    """Returns the default file for the rejected rows of a source, in the current folder."""
    return Path(f"{'stdin' if source == STDIN else Path(source).name}.rejected.csv")


class Rejects:
    """A CSV file, created only if a row was rejected or skipped, and complete when it appears at the end of the import.

    Until then its name ends in `.partial`; an import that fails removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._file: IO[str] | None = None
        self._writer: Any = None
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"cannot write rejected rows to {path}: name a file in a folder you may write to (--rejects)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
            if error is None:
                self._partial.replace(self.path)
        except OSError as failure:
            if error is None:
                raise self._write_error(failure) from None
        finally:
            self._partial.unlink(missing_ok=True)

    @property
    def has_rows(self) -> bool:
        """Whether a row was added."""
        return self._file is not None

    def add(self, rejection: Rejection) -> None:
        """Writes one row. Raises InputError when that fails, such as on a full disk."""
        try:
            if self._file is None:
                self._file = self._partial.open("w", encoding="utf-8", newline="")
                self._writer = csv.writer(self._file)
                self._writer.writerow(HEADER)
            self._writer.writerow((rejection.number, rejection.reason, rejection.message, _printable(rejection.raw)))
        except OSError as failure:
            raise self._write_error(failure) from None

    def _write_error(self, failure: OSError) -> InputError:
        return InputError(f"cannot write rejected rows to {self.path}: {failure.strerror}")


def _printable(raw: bytes) -> str:
    """Returns the row unchanged, except for bytes that CSV readers don't accept."""
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
