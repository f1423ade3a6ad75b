"""Logs: one line of JSON per event, or coloured text in a terminal. Never ids of customers, never contents."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Seconds between two lines about the same defect, and defects that are told apart: a call that fails under load fails often.
DEFECT_EVERY = 10.0
MAX_DEFECTS = 100


class Seldom:
    """A processor of structlog that leaves out a traceback which was logged in the last few seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._logged_at: dict[tuple[str, type[BaseException], int], float] = {}
        self._left_out = 0

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Returns the event, or drops it."""
        error = event.get("exc_info")
        if not isinstance(error, BaseException):
            return event
        now, kind = self._monotonic(), (str(event["event"]), type(error), _place(error.__traceback__))
        if now - self._logged_at.get(kind, -DEFECT_EVERY) < DEFECT_EVERY:
            self._left_out += 1
            raise structlog.DropEvent
        if len(self._logged_at) >= MAX_DEFECTS:
            self._logged_at.clear()
        self._logged_at[kind] = now
        if self._left_out:
            event["left_out"], self._left_out = self._left_out, 0
        return event


def _place(traceback: TracebackType | None) -> int:
    """Returns what tells the last line of a traceback from others."""
    if traceback is None:
        return 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return hash((traceback.tb_frame.f_code, traceback.tb_lineno))


def configure(*, level: str, format: str) -> None:
    """Makes every log line of the process look as the settings `log_level` and `log_format` say, whoever writes it."""
    out = sys.stderr
    console = format == "console" or (format == "auto" and out.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*processors, Seldom(), structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    # Libraries that log by themselves; what they say is ours to say better.
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    handler.addFilter(_is_news)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it sets a level of its own
    logging.getLogger("py.warnings").setLevel(logging.WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    """Says no to grpc.aio's error about each caller who left before the reply was sent: under load they are many."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def hear_everything(loop: asyncio.AbstractEventLoop) -> None:
    """Has logged what nobody else hears in this process: warnings, and exceptions of callbacks, tasks and threads."""
    logging.captureWarnings(capture=True)  # Python says each once per line of code
    sys.excepthook = lambda _kind, error, _traceback: log.critical("uncaught exception", exc_info=error)
    sys.unraisablehook = lambda found: _unheard(found.err_msg, found.exc_value)
    threading.excepthook = lambda found: _unheard("uncaught exception in a thread", found.exc_value)
    loop.set_exception_handler(_heard_by_loop)


def _unheard(message: str | None, error: BaseException | None) -> None:
    if error is not None:
        log.error(message or "exception ignored", exc_info=error)


def _heard_by_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error(str(context["message"]), **{"exc_info": error} if error is not None else {})
