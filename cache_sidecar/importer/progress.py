"""Shows how far an import is: a bar in a terminal, a line now and then elsewhere."""

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
    """Is told how far it is. Bytes are those of the file as it lies on the disk."""

    def start(self, name: str, total_bytes: int | None) -> None:
        """An import begins; the total is None for a pipe."""
        ...

    def advance(self, *, bytes_read: int, rows_read: int) -> None:
        """It came this far, counted from its beginning."""
        ...

    def stop(self) -> None:
        """It is over, one way or the other."""
        ...


def progress_on(stream: TextIO | None = None) -> Progress:
    """Returns what suits a stream, standard error unless said otherwise."""
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
        """Moves it."""
        self._bar.update(self._task, completed=bytes_read, rows=rows_read)

    def stop(self) -> None:
        """Takes it away."""
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
        """Prints a line if it is time."""
        if self._monotonic() < self._next:
            return
        self._next = self._monotonic() + LINE_EVERY
        part = f"{bytes_read / self._total:.0%}, " if self._total else ""
        print(f"{self._name}: {part}{rows_read:,} rows", file=self._stream, flush=True)

    def stop(self) -> None:
        """Does nothing: the report follows."""
