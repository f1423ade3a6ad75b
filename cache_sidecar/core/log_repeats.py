"""Samples warnings and errors that repeat: the first of a kind are logged, then some now and then, with a count of the others.

Most lasting problems are logged once, by `Dependency` or a `LogLimit`. This is for all others: a defect that every call meets,
or a library's error, must neither fill the disk nor hide what else is wrong.
"""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import structlog

# Seconds of a window, the lines of one kind that are logged in it, and those with a traceback.
EVERY, LINES, TRACEBACKS = 10.0, 10, 1
# Kinds that are distinguished; all above that are one.
MAX_KINDS = 1000
# What tells kinds apart besides the message: what a line is about, and nothing of which there are many.
_ABOUT = ("what", "which", "dataset", "tier", "task", "job", "roles", "method", "file", "setting")
_SAMPLED = frozenset({"warning", "error", "critical"})
_Kind = tuple[object, ...]


@dataclass(slots=True)
class _Window:
    since: float
    level: int
    event: str
    about: dict[str, str]
    logged: int = 0
    left_out: int = 0


class Repeats:
    """A structlog processor that drops lines of a kind beyond its number in a window, and counts them."""

    def __init__(
        self, *, report: Callable[..., object] = lambda *_, **__: None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`report(level, event, **facts)` logs how many lines were left out."""
        self._report = report
        self._monotonic = monotonic
        self._windows: dict[_Kind, _Window] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        "The event loop in which a report is scheduled."

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Returns the event, or raises DropEvent."""
        if method not in _SAMPLED or "audit" in event or event.get("event") == LEFT_OUT:
            return event
        error = event.get("exc_info")
        trace = (type(error), _place(error.__traceback__)) if isinstance(error, BaseException) else ()
        about = {key: value for key in _ABOUT if isinstance(value := event.get(key), str)}
        kind = (method, event.get("event"), *about.items(), *trace)
        level = logging.getLevelNamesMapping()[method.upper()]
        before = self._admit(kind, level, str(event.get("event")), about, TRACEBACKS if trace else LINES)
        if before is None:
            raise structlog.DropEvent
        if before:
            event["left_out"] = before
        return event

    def admit_record(self, record: logging.LogRecord) -> bool:
        """The same for what libraries log: a filter of their handler."""
        error = record.exc_info[1] if record.exc_info else None
        trace = (type(error), _place(error.__traceback__)) if error is not None else ()
        kind = (record.levelno, record.name, record.msg, *trace)
        about = {"logger": record.name}
        return self._admit(kind, record.levelno, str(record.msg), about, TRACEBACKS if trace else LINES) is not None

    def _admit(self, kind: _Kind, level: int, event: str, about: dict[str, str], lines: int) -> int | None:
        """Returns how many lines were left out since the last one of a kind; None if this one is left out, too."""
        now = self._monotonic()
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind, event, about = (), "of other kinds", {}
        window, before = self._windows.get(kind), 0
        if window is None or now - window.since >= EVERY:
            before = window.left_out if window is not None else 0
            self._windows[kind] = window = _Window(now, level, event, about)
        self._schedule()
        if window.logged < lines:
            window.logged += 1
            return before
        window.left_out += 1
        return None

    def _schedule(self) -> None:
        """Has the count of a window be logged when it ends, in case no other line of its kind comes."""
        if self._loop is not None and not self._loop.is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # in a thread: the next line in the event loop does it
            return
        self._loop = loop
        loop.call_later(EVERY, self._end_windows)

    def _end_windows(self) -> None:
        self._loop = None
        self.report()
        if self._windows:
            self._schedule()

    def clear(self) -> None:
        """Forgets all windows, and what they left out."""
        self._windows.clear()

    def report(self, *, all: bool = False) -> None:
        """Forgets the windows that have ended, or all of them, and logs what they left out."""
        now = self._monotonic()
        ended = [kind for kind, window in self._windows.items() if all or now - window.since >= EVERY]
        for kind in ended:
            window = self._windows.pop(kind)
            if window.left_out:
                self._report(window.level, LEFT_OUT, message=window.event, **window.about, left_out=window.left_out)


LEFT_OUT = "repeated lines were left out"


def _place(trace: TracebackType | None) -> int:
    """Returns a value that identifies the last line of a traceback."""
    if trace is None:
        return 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return hash((trace.tb_frame.f_code, trace.tb_lineno))
