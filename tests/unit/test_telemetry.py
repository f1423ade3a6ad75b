"""Logs: one line of JSON per event, errors included, and nothing below the level."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from cache_sidecar.core import telemetry


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


def test_what_libraries_log_is_json_too(configure: Configure) -> None:
    stderr = configure(format="json")
    try:
        _ = {}["missing"]
    except KeyError:
        logging.getLogger("asyncio").exception("broken\nin two lines")
    line = json.loads(stderr.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("broken\nin two lines", "error", "asyncio")
    assert "KeyError" in line["exception"]


def test_a_defect_that_is_met_often_is_logged_now_and_then(configure: Configure) -> None:
    stderr = configure(format="json")
    for _ in range(1000):
        fail()
    try:
        int("two")
    except ValueError as error:
        telemetry.log.error("call failed", exc_info=error)
    first, other = map(json.loads, stderr.getvalue().splitlines())
    assert "KeyError" in first["exception"]
    assert "ValueError" in other["exception"]
    assert other["left_out"] == 999


def test_a_defect_is_logged_again_later() -> None:
    now = 0.0
    seldom = telemetry.Seldom(lambda: now)
    error = KeyError("missing")
    assert seldom(None, "error", {"event": "call failed", "exc_info": error})
    for moment in (0.0, telemetry.DEFECT_EVERY - 0.1):
        now = moment
        with pytest.raises(structlog.DropEvent):
            seldom(None, "error", {"event": "call failed", "exc_info": error})
    now = telemetry.DEFECT_EVERY
    assert seldom(None, "error", {"event": "call failed", "exc_info": error})["left_out"] == 2


PROGRAM = """
import asyncio, sys, threading, warnings
from cache_sidecar.core import telemetry
from cache_sidecar.core.signals import run_until_signalled

def fail(): raise ValueError("lost")

class Broken:
    def __del__(self): fail()

async def run(stop):
    loop = asyncio.get_running_loop()
    warnings.warn("something is deprecated")
    loop.call_soon(fail)
    task = loop.create_task(asyncio.sleep(0))
    async def lost(): fail()
    loop.create_task(lost())
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Broken()
    await asyncio.sleep(0.1)
    import gc; gc.collect()
    fail()

telemetry.configure(level="info", format="json")
run_until_signalled(run)
"""


def test_whatever_nobody_hears_is_a_line_of_json() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert lines[0]["logger"] == "py.warnings"
    assert "something is deprecated" in lines[0]["event"]
    lost = [line for line in lines[1:] if "ValueError: lost" in line["exception"]]
    assert len(lost) == len(lines) - 1
    assert {line["level"] for line in lost} == {"error", "critical"}
    events = " ".join(line["event"] for line in lost)
    for words in ("Exception in callback", "Task exception was never retrieved", "exception ignored", "in a thread"):
        assert words in events


def test_that_a_caller_left_is_no_error_of_grpc_s(configure: Configure) -> None:
    stderr = configure(level="info", format="json")
    logging.getLogger("grpc._cython.cygrpc").error("ExecuteBatchError raised in core by servicer method [/x/Get]")
    logging.getLogger("grpc._cython.cygrpc").error("another error")
    (line,) = stderr.getvalue().splitlines()
    assert json.loads(line)["event"] == "another error"
