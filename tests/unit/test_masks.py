"""Passwords are masked in all that a process prints, in any form, also those that have replaced another one."""

import json
import logging
import subprocess
import sys
from base64 import b64encode
from urllib.parse import quote

import pytest

from cache_sidecar.core import masks, telemetry

PASSWORD = "p@ss w/ö'rd\"\\%41"


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        quote(PASSWORD, safe="").replace("%C3%B6", "%c3%b6").replace("%2F", "%2f").replace("%5C", "%5c"),
        quote(PASSWORD),
        repr(PASSWORD)[1:-1],
        repr(PASSWORD.encode())[2:-1],
        json.dumps(PASSWORD)[1:-1],
        b64encode(PASSWORD.encode()).decode(),
    ],
)
def test_every_form_is_masked(form: str) -> None:
    masks.add(PASSWORD)
    assert masks.mask(f"postgresql://shop:{form}@db: refused") == "postgresql://shop:***@db: refused"


def test_the_longer_of_two_is_masked_as_a_whole() -> None:
    masks.add("secret", "secret-of-two")
    assert masks.mask("secret-of-two, secret") == "***, ***"


def test_what_is_too_short_for_a_password_is_left() -> None:
    masks.add("", "e", "abc")
    assert masks.mask("be abcd") == "be abcd"


def test_the_last_ones_are_remembered() -> None:
    masks.add("the-first-of-many", "the-second-of-many")
    for number in range(masks.REMEMBERED - 1):
        masks.add(f"password-{number:03}", "the-first-of-many")
    assert masks.mask("the-first-of-many the-second-of-many password-062") == "*** the-second-of-many ***"


def connect() -> None:
    raise ValueError(f"cannot connect: {PASSWORD}", {"password": PASSWORD})


@pytest.mark.parametrize("format", ["json", "console"])
def test_logs_of_ours_and_of_libraries_are_masked(capsys: pytest.CaptureFixture[str], format: str) -> None:
    telemetry.configure(level="info", format=format)
    masks.add(PASSWORD)
    try:
        connect()
    except ValueError as error:
        telemetry.log.error(f"failed with {PASSWORD}", exc_info=error, dsn=[{"uri": PASSWORD}], object=error, count=1)
        logging.getLogger("asyncio").exception("failed with %s", PASSWORD)
    logged = capsys.readouterr().err
    assert logged.count("***") >= 7
    for form in (PASSWORD, repr(PASSWORD)[1:-1], json.dumps(PASSWORD)[1:-1], json.dumps(json.dumps(PASSWORD))[3:-3]):
        assert form not in logged


def test_the_traceback_of_a_defect_is_masked() -> None:
    code = f"""
from cache_sidecar.core import masks, telemetry
telemetry.mask_tracebacks()
masks.add({PASSWORD!r})
raise ValueError({PASSWORD!r})"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: ***"
    assert done.stderr.startswith("Traceback")
