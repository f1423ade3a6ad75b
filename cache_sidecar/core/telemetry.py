"""Logs: one line of JSON per event, or coloured text in a terminal. Never customer ids, never contents."""

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

from cache_sidecar.core import masks, tracing
from cache_sidecar.core.log_level import LogLevel
from cache_sidecar.core.log_repeats import Repeats

log: structlog.stdlib.BoundLogger = structlog.get_logger()


_AUDIT = "audit"


def create_audit_logger() -> structlog.stdlib.BoundLogger:
    """Returns a logger whose level does not depend on `log_level`, which must not switch off who did what."""
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        None, wrapper_class=wrapper, logger_factory_args=[_AUDIT], audit=True
    )
    return logger


audit = create_audit_logger()

own_level = LogLevel()
"""The level of this process; `configure` sets it."""


def _report_repeats(level: int, event: str, **facts: object) -> None:
    log.log(level, event, **facts)


repeats = Repeats(report=_report_repeats)


class _Lossy:
    """A text file whose lines are lost when they cannot be written.

    The disk may be full, or the log collector gone. A line about a failing dependency must not end the task that writes it.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes if that is possible."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes if that is possible."""
        with contextlib.suppress(OSError):
            self._file.flush()


def _escape_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escapes what is not printable in texts for a terminal, where a caller's could move the cursor over other lines."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key not in _OWN_KEYS:
            event[key] = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in value)
    return event


# Written by us, not by callers, and in several lines.
_OWN_KEYS = {"exception", "stack"}


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the ids of the trace that the event belongs to, if it is sampled."""
    if (span := tracing.current()) is not None:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.span_id)
    return event


def _mask_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks passwords in all values of an event, also in a traceback, which is a text by now."""
    for key, value in event.items():
        event[key] = _mask_value(value)
    return event


def _mask_value(value: Any) -> Any:
    if isinstance(value, str):
        return masks.mask(value)
    if isinstance(value, list | tuple):
        return [_mask_value(one) for one in value]
    if isinstance(value, dict):
        return {key: _mask_value(one) for key, one in value.items()}
    # Anything else is rendered by its repr.
    return value if value is None or isinstance(value, bool | int | float) else masks.mask(repr(value))


def configure(*, level: str, format: str) -> None:
    """Applies the settings `log_level` and `log_format` to all logs of the process, those of libraries included."""
    own_level.configure(level)
    repeats.clear()
    out = sys.stderr
    console = format == "console" or (format == "auto" and out.isatty())
    rendering: list[Any] = [_mask_event]
    rendering += [_escape_controls, structlog.dev.ConsoleRenderer()] if console else [structlog.processors.JSONRenderer()]
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[own_level, repeats, *processors, structlog.processors.format_exc_info, *rendering],
        # The level may be changed while loggers are in use, so it is a processor.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        # An audit line that cannot be written is an error of what it is about.
        logger_factory=lambda *kind: structlog.WriteLogger(out if _AUDIT in kind else cast("TextIO", _Lossy(out))),
        cache_logger_on_first_use=True,
    )
    # Libraries: only their errors, as we log what matters ourselves.
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *rendering,
            ],
        )
    )
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    handler.addFilter(_is_news)
    handler.addFilter(repeats.admit_record)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it sets its own level
    logging.getLogger("py.warnings").setLevel(logging.WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    """Filters out the error that grpc.aio logs for each caller who left before the reply was sent: under load, many."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def mask_tracebacks() -> None:
    """Masks passwords in the traceback of a defect that ends a command; `log_unhandled` logs it instead."""
    sys.excepthook = _write_traceback


def _write_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(masks.mask("".join(traceback.format_exception(kind, error, trace))))


def log_unhandled(loop: asyncio.AbstractEventLoop) -> None:
    """Logs what nothing else in the process handles: warnings, and exceptions of callbacks, tasks and threads."""
    logging.captureWarnings(capture=True)  # Python emits each once per line of code
    sys.excepthook = lambda _kind, error, _traceback: log.critical("uncaught exception", exc_info=error)
    sys.unraisablehook = lambda found: _log_unhandled(found.err_msg, found.exc_value)
    threading.excepthook = lambda found: _log_unhandled("uncaught exception in a thread", found.exc_value)
    loop.set_exception_handler(_log_from_loop)


def _log_unhandled(message: str | None, error: BaseException | None) -> None:
    if error is not None:
        log.error(message or "exception ignored", exc_info=error)


def _log_from_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error(str(context["message"]), **{"exc_info": error} if error is not None else {})
