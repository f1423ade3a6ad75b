"""What is written of a run, and what is printed of that."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.durations import SLOWEST, read, show, summary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", ["0", "2"], ids=["alone", "xdist"])
def test_a_run_is_written_beside_what_is_there_of_others(processes: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{folder}.py").write_text(
            f"def test_{folder}1(): pass\ndef test_{folder}2(): assert False\n"
        )
    (tmp_path / "out.json").write_text('{"long": {"seconds": 1}}')
    options = ["-p", "tests.durations", "-n", processes, "--durations-file=out.json", "-c", "/dev/null", "--rootdir", "."]
    command = [sys.executable, "-m", "pytest", "-q", *options, "-m", "not long", "a", "b"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert "2 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    suites = read(tmp_path / "out.json")
    assert set(suites) == {"long", "not long"}
    assert {name: folder["tests"] for name, folder in suites["not long"]["folders"].items()} == {"a": 2, "b": 2}
    assert {row["test"] for row in suites["not long"]["slowest"]} == {
        f"{folder}/test_{folder}.py::test_{folder}{number}" for folder in ("a", "b") for number in (1, 2)
    }


def test_only_the_slowest_are_named_and_every_folder_counts() -> None:
    tests = {f"tests/unit/test_x.py::test_{number}": (float(number), 0.5) for number in range(2 * SLOWEST)}
    found = summary(tests | {"tests/e2e/test_y.py::test": (0.25, 0.0)}, 20.0)
    assert found["folders"]["tests/unit"] == {"tests": 100, "seconds": 4950.0, "cpu": 50.0}
    assert found["folders"]["tests/e2e"] == {"tests": 1, "seconds": 0.25, "cpu": 0.0}
    assert [row["seconds"] for row in found["slowest"]] == [float(number) for number in reversed(range(SLOWEST, 2 * SLOWEST))]
    console = Console(record=True, width=120)
    show({"not long": found}, console)
    assert "tests/unit │   100 │  4950.0 │  50.0" in console.export_text()


def test_nothing_is_there_before_the_first_run(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json") == {}
