"""Progress output while the stack starts: a line per step, animated in a terminal and plain otherwise."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

# Seconds between two plain lines about the same step.
_PLAIN_INTERVAL = 2.0
# Width of a progress bar in characters.
_BAR = 24


class Steps:
    """The steps of a start, which can run in parallel; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        # Other encodings do not have the characters of the bar and the spinner.
        if console.is_terminal and console.encoding.startswith("utf"):
            spinner = SpinnerColumn(finished_text="[green]✓[/]")
            self._live = Progress(spinner, TextColumn("{task.description}"), console=console)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, text: str) -> "Step":
        """Shows that a step has begun."""
        return Step(text, self._console, self._live)


class Step:
    """One step."""

    def __init__(self, text: str, console: Console, live: Progress | None) -> None:
        self._text = text
        self._console = console
        self._live = live
        self._begin = self._last = time.monotonic()
        self._task = live.add_task(text, total=None) if live is not None else None

    def progress(self, done: int, total: int) -> None:
        """Shows the progress; `total` is at least 1."""
        count = f"{done:,} of {total:,}"
        if self._live is not None and self._task is not None:
            # Not a BarColumn of rich: the finished lines of other steps would squeeze it.
            filled = _BAR * done // total
            bar = f"[cyan]{'━' * filled}[/][dim]{'━' * (_BAR - filled)}[/]"
            self._live.update(self._task, description=f"{self._text} {bar} {count}")
        elif time.monotonic() - self._last >= _PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._console.print(f"{self._text}: {count}")

    def finish(self, text: str) -> None:
        """Shows the result of the step and its duration."""
        line = f"{text} [dim]({time.monotonic() - self._begin:.1f} s)[/]"
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=line, total=1, completed=1)
        else:
            self._console.print(line)
