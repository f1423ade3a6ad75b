"""The soak finds what grows: a process that keeps memory and files."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.soak.vitals import NOISE, Vitals

# Keeps ten files and 8 MiB more with each line it reads.
_LEAKING = "import sys\nkept = []\nfor _ in sys.stdin:\n kept.append(([open('/dev/null') for _ in range(10)], b'x' * 2**23))\n print(flush=True)"


@pytest.fixture
def leaking() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _LEAKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def leak(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()


def test_what_a_process_keeps_is_found(leaking: subprocess.Popen[bytes]) -> None:
    leak(leaking)
    before = Vitals.of(leaking.pid, tasks=10)
    assert Vitals.of(leaking.pid, tasks=10).grown(before) == []
    leak(leaking)
    after = Vitals.of(leaking.pid, tasks=13)
    assert [line.partition(":")[0] for line in after.grown(before)] == ["rss", "fds", "tasks"]


@pytest.mark.parametrize(("old", "new", "is_growth"), [(45, 47, False), (45, 48, True), (100, 105, False), (100, 106, True)])
def test_five_per_cent_more_are_allowed_and_two_of_few(old: int, new: int, is_growth: bool) -> None:
    lines = Vitals(10**8, new, 10).grown(Vitals(10**8, old, 10))
    assert lines == ([f"fds: {old} after the first minute, {new} at the end"] if is_growth else [])


def test_what_comes_and_goes_is_no_growth() -> None:
    least = Vitals.least([Vitals(9, 50, 30), Vitals(8, 46, 90), Vitals(9, 47, 20)])
    assert least == Vitals(8, 46, 20)
    assert set(NOISE) == set(Vitals._fields)
