"""Logs: one line of JSON per event, or coloured text in a terminal. Never ids of customers, never contents."""

import logging
import sys

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(*, level: str, format: str) -> None:
    """Makes every log line of the process look as the settings `log_level` and `log_format` say."""
    out = sys.stderr
    console = format == "console" or (format == "auto" and out.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    # Libraries that log by themselves; what they say is ours to say better.
    logging.basicConfig(level=logging.ERROR, stream=out, force=True, format="%(message)s")
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it sets a level of its own
