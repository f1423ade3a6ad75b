"""The progress of an import: a bar in a terminal, otherwise a line from time to time."""

import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# Seconds between two lines where there is no terminal.
LINE_EVERY = 10.0


class Progress(Protocol):
    """Shows progress. Bytes are those of the file on disk, before unpacking."""

    def start(self, name: str, total_bytes: int | None) -> None:
        """Called when an import begins; the total is None for a pipe."""
        ...

    def advance(self, *, bytes_read: int, rows_read: int) -> None:
        """Called now and then with the counts so far."""
        ...

    def stop(self) -> None:
        """Called when the import has succeeded or failed."""
        ...


def progress_on(stream: TextIO | None = None) -> Progress:
    """Returns the progress for a stream, by default standard error."""
    stream = stream or sys.stderr
    return Bar(Console(file=stream)) if stream.isatty() else PlainLines(stream)


class Bar:
    """A progress bar by bytes read."""

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", start=False, rows=0)

    def start(self, name: str, total_bytes: int | None) -> None:
        """Shows the bar."""
        self._bar.update(self._task, description=name, total=total_bytes)
        self._bar.start_task(self._task)
        self._bar.start()

    def advance(self, *, bytes_read: int, rows_read: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=bytes_read, rows=rows_read)

    def stop(self) -> None:
        """Removes the bar."""
        self._bar.stop()


class PlainLines:
    """A line every ten seconds."""

    def __init__(self, stream: TextIO, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._monotonic = monotonic
        self._name = ""
        self._total: int | None = None
        self._next = 0.0

    def start(self, name: str, total_bytes: int | None) -> None:
        """Starts the clock."""
        self._name, self._total = name, total_bytes
        self._next = self._monotonic() + LINE_EVERY

    def advance(self, *, bytes_read: int, rows_read: int) -> None:
        """Prints a line if one is due."""
        if self._monotonic() < self._next:
            return
        self._next = self._monotonic() + LINE_EVERY
        part = f"{bytes_read / self._total:.0%}, " if self._total else ""
        print(f"{self._name}: {part}{rows_read:,} rows", file=self._stream, flush=True)

    def stop(self) -> None:
        """Does nothing: the report follows."""
