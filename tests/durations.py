"""Durations of tests: a plugin that writes them to a file, and `python -m tests.durations`, which prints it as a table."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Column, Table

FILE = Path("build/durations.json")
SLOWEST = 50
# By test: its seconds including fixtures, and the CPU seconds of this process among them.
Tests = dict[str, tuple[float, float]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that enables it: only a run of a whole suite is worth recording."""
    parser.addoption("--durations-file", metavar="FILE", help="put durations per folder, and the slowest tests, into FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the plugin if a file is given."""
    if file := config.getoption("--durations-file"):
        config.pluginmanager.register(Durations(config, Path(file)), "durations of a suite")


class Durations:
    """The durations of one run, in one process or, with xdist, in several."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config, self._file = config, file
        self._tests: Tests = {}
        self._started = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measures one test, including the fixtures set up before and torn down after it."""
        started, cpu = time.monotonic(), time.process_time()
        outcome = yield
        self._tests[item.nodeid] = time.monotonic() - started, time.process_time() - cpu
        return outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collects the measurements of an xdist worker when it ends."""
        self._tests |= getattr(node, "workeroutput", {}).get("durations", {})

    @pytest.hookimpl(trylast=True)  # after xdist's, which ends the other processes
    def pytest_sessionfinish(self) -> None:
        """Writes the durations of this suite; those of other suites stay in the file."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["durations"] = self._tests
            return
        if not self._tests:
            return  # keep the earlier, complete run
        suite = str(self._config.getoption("-m")) or "all"
        suites = read(self._file) | {suite: summary(self._tests, time.monotonic() - self._started)}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(suites, indent=1) + "\n")


def summary(tests: Tests, seconds: float) -> dict[str, Any]:
    """Returns the record of a suite: its folders and its slowest tests."""
    folders: dict[str, Tests] = {}
    for name, took in tests.items():
        folders.setdefault(name.partition("::")[0].rpartition("/")[0], {})[name] = took
    slowest = sorted(tests, key=lambda name: -tests[name][0])[:SLOWEST]
    return {
        "seconds": round(seconds, 1),
        "folders": {name: {"tests": len(inside), **_figures(inside)} for name, inside in sorted(folders.items())},
        "slowest": [{"test": name, **_figures({name: tests[name]})} for name in slowest],
    }


def _figures(tests: Tests) -> dict[str, float]:
    seconds, cpu = zip(*tests.values(), strict=True)
    return {"seconds": round(sum(seconds), 2), "cpu": round(sum(cpu), 2)}


def read(file: Path) -> dict[str, Any]:
    """Returns the suites in a file; none if it does not exist."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def show(suites: dict[str, Any], console: Console) -> None:
    """Prints a table of the folders, and one of the slowest tests, of each suite."""
    for name, suite in suites.items():
        folders = Table("folder", *_right("tests", "seconds", "CPU s"), title=f"{name}: {suite['seconds']:.0f} s")
        for folder, figures in suite["folders"].items():
            folders.add_row(folder, str(figures["tests"]), f"{figures['seconds']:.1f}", f"{figures['cpu']:.1f}")
        slowest = Table(Column("test", overflow="fold"), *_right("seconds", "CPU s"), title=f"{name}: the slowest")
        for test in suite["slowest"]:
            slowest.add_row(test["test"], f"{test['seconds']:.2f}", f"{test['cpu']:.2f}")
        console.print(folders, slowest)


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


if __name__ == "__main__":
    if not FILE.exists():
        raise SystemExit(f"there is no {FILE}: `make test` and `make test-long` write it")
    show(read(FILE), Console(width=max(Console().width, 120)))
