"""Logs: one line of JSON per event, errors included, and nothing below the level."""

import asyncio
import errno
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from cache_sidecar.core import telemetry
from cache_sidecar.core.log_repeats import LEFT_OUT, LINES


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configures logs to go to a stream, which it returns."""

    def configured(*, level: str = "info", format: str, stream: io.StringIO | None = None) -> io.StringIO:
        stream = stream or io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        telemetry.configure(level=level, format=format)
        return stream

    return configured


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


def test_the_audit_log_has_a_level_of_its_own(configure: Configure) -> None:
    stderr = configure(level="error", format="json")
    telemetry.log.info("not this")
    telemetry.audit.info("admin call", caller="token ops")
    (line,) = stderr.getvalue().splitlines()
    found = json.loads(line)
    assert (found["event"], found["audit"], found["level"], found["caller"]) == ("admin call", True, "info", "token ops")


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_log_that_cannot_be_written_ends_nothing_but_the_audit_log_does(configure: Configure, format: str) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    configure(format=format, stream=Full())
    telemetry.log.error("a dependency fails")
    with pytest.raises(OSError, match="No space left"):
        telemetry.audit.info("admin call")


def test_texts_of_callers_do_not_control_a_terminal(configure: Configure) -> None:
    terminal = configure(format="console", stream=Terminal())
    telemetry.audit.info("admin call", dataset="\x1b[1Aforged\x9b2K\u202e\r", ids=["\x1b[31m"])
    assert "\\x1b[1Aforged\\x9b2K\\u202e\\r" in terminal.getvalue().replace("\\\\", "\\")
    assert not [control for control in ("\x1b[1A", "\x9b", "\u202e", "\r") if control in terminal.getvalue()]


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
    telemetry.repeats.report(all=True)
    first, other, report = map(json.loads, stderr.getvalue().splitlines())
    assert "KeyError" in first["exception"]
    assert "ValueError" in other["exception"]
    assert (report["event"], report["level"]) == (LEFT_OUT, "error")
    assert (report["message"], report["method"], report["left_out"]) == ("call failed", "Get", 999)


def test_the_level_may_be_changed_while_loggers_are_in_use(configure: Configure) -> None:
    stderr = configure(level="warning", format="json")

    async def main() -> None:
        telemetry.log.info("not this")
        telemetry.own_level.change("debug", 60)
        telemetry.log.debug("this")
        telemetry.own_level.reset()
        telemetry.log.info("nor this")

    asyncio.run(main())
    assert [json.loads(line)["event"] for line in stderr.getvalue().splitlines()] == ["this"]


def test_what_libraries_log_is_sampled_too(configure: Configure) -> None:
    stderr = configure(format="json")
    for number in range(100):
        logging.getLogger("grpc").error("lost %d", number)
    telemetry.repeats.report(all=True)
    *lines, report = map(json.loads, stderr.getvalue().splitlines())
    assert [line["event"] for line in lines] == [f"lost {number}" for number in range(LINES)]
    assert (report["message"], report["logger"], report["left_out"]) == ("lost %d", "grpc", 100 - LINES)


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
