"""Logs: one line of JSON per event, errors included, and nothing below the level."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from cache_sidecar import telemetry


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Configures logs to go to a stream, which it returns."""
    handlers, level = logging.root.handlers[:], logging.root.level
    monkeypatch.setattr(telemetry, "log", structlog.get_logger())

    def configured(*, level: str = "info", format: str, stream: io.StringIO | None = None) -> io.StringIO:
        stream = stream or io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        telemetry.configure(level=level, format=format)
        return stream

    yield configured
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def fail() -> None:
    try:
        _ = {}["missing"]
    except KeyError as error:
        telemetry.log.error("call failed", method="Get", exc_info=error)


def test_an_event_is_one_line_of_json(configure: Configure) -> None:
    stderr = configure(level="info", format="json")
    telemetry.log.info("serving", address="127.0.0.1:1")
    (line,) = stderr.getvalue().splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["address"]) == ("serving", "info", "127.0.0.1:1")
    assert event["timestamp"].endswith("Z")


def test_an_error_with_its_trace_is_one_line_of_json(configure: Configure) -> None:
    stderr = configure(level="info", format="json")
    fail()
    (line,) = stderr.getvalue().splitlines()
    assert "KeyError" in json.loads(line)["exception"]


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_logged(configure: Configure, level: str, expected: int) -> None:
    stderr = configure(level=level, format="json")
    for name in ("debug", "info", "warning", "error"):
        getattr(telemetry.log, name)("event")
    assert len(stderr.getvalue().splitlines()) == expected


def test_auto_is_json_where_nobody_watches(configure: Configure) -> None:
    stderr = configure(level="info", format="auto")
    telemetry.log.info("event")
    assert json.loads(stderr.getvalue())["event"] == "event"


@pytest.mark.parametrize("format", ["auto", "console"])
def test_a_terminal_gets_text_and_no_warning_about_it(configure: Configure, format: str) -> None:
    terminal = configure(format=format, stream=Terminal())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fail()
    assert not terminal.getvalue().startswith("{")
    assert "KeyError" in terminal.getvalue()


def test_other_libraries_are_heard_only_when_something_broke(configure: Configure) -> None:
    stderr = configure(level="debug", format="json")
    logging.getLogger("psycopg.pool").warning("error connecting")
    assert stderr.getvalue() == ""
    logging.getLogger("asyncio").error("broken")
    assert "broken" in stderr.getvalue()
