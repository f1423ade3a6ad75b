"""Every test is in exactly one of the two suites, and `.ci/run` runs both."""

import re

import pytest

from tests.suites import LONG, TESTS, is_long

ROOT = TESTS.parent
QUICK, SLOW = '-m "not long"', "-m long"


def test_the_two_suites_are_all_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text()
    suites = dict(re.findall(r"^(test|test-long): .*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    # One is what the other is not, and neither names a path, or chooses among its tests.
    (quick,), (slow,) = (re.findall(r"-m pytest (.*)", suites[target]) for target in ("test", "test-long"))
    assert QUICK in quick
    assert SLOW in slow
    for options in (quick, slow):
        assert not re.search(r"tests/|(^| )-k|--ignore|--deselect", options)
    assert {"make check", "make test", "make test-long"} <= set((ROOT / ".ci/run").read_text().splitlines())


@pytest.mark.parametrize("name", LONG)
def test_what_the_list_names_has_tests(name: str) -> None:
    place = TESTS / name
    assert place.is_file() or any(place.rglob("test_*.py")), "it was moved: then its tests are in `make test` now"


def test_pytest_looks_at_every_file_with_tests() -> None:
    test = re.compile(r"^(async )?def test_|^class Test", re.MULTILINE)
    files = {file for file in TESTS.rglob("*.py") if test.search(file.read_text())}
    assert {file for file in files if not file.name.startswith("test_")} == set()
    assert {is_long(file) for file in files} == {True, False}
