"""Rounds, ratios, and what is said of them."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench import report
from tests.bench.__main__ import run
from tests.bench.comparison import Comparison, Measured, Result, compare
from tests.bench.machine import BusyMeter, choose_cores, on_core


def rate(calls_per_second: float, **others: float) -> Measured:
    figures = {"p50_us": 100.0, "p99_us": 200.0, "cpu_s_per_1000": 0.2, "own": 0.5, "load_busy": 0.3, "foreign": 0.0} | others
    return Measured(calls_per_second=calls_per_second, **figures)


def result(ours: list[Measured], reference: list[Measured], *, goal: float = 0.85, pinned: bool = True) -> Result:
    return Result(name="hit", unit="calls/s", goal=goal, ours=ours, reference=reference, pinned=pinned)


def recorder(name: str, turns: list[tuple[str, float]], figures: list[float]) -> Callable[[float], Measured]:
    remaining = iter(figures)

    def measure(seconds: float) -> Measured:
        turns.append((name, seconds))
        return rate(next(remaining))

    return measure


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[tuple[str, float]] = []
    closed: list[bool] = []

    @contextmanager
    def sides() -> Iterator[tuple[Callable[[float], Measured], Callable[[float], Measured]]]:
        yield recorder("ours", turns, [1, 80, 45, 160]), recorder("reference", turns, [1, 100, 50, 100])
        closed.append(True)

    told: list[str] = []
    comparison = Comparison(name="hit", goal=0.85, sides=sides)
    found = compare(comparison, rounds=3, seconds=2.0, pinned=True, tell=told.append)
    short, full = [("ours", 0.5), ("reference", 0.5)], [("ours", 2.0), ("reference", 2.0)]
    assert turns == [*short, *full, *reversed(full), *full]
    # Each round's own ratio: 0.8, 0.9, 1.6.
    assert (found.ratio, found.is_met, closed) == (0.9, True, [True])
    assert told[-1] == "hit: round 3 of 3"


def test_an_entry_has_what_scripts_rely_on(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    ours = [rate(50, cpu_s_per_1000=0.4), rate(70, cpu_s_per_1000=0.8), rate(90, cpu_s_per_1000=0.5)]
    report.write([result(ours, [rate(100)] * 3)], file)
    (entry,) = json.loads(file.read_text())
    assert (
        entry.items()
        >= {
            "name": "hit",
            "unit": "calls/s",
            "ours": 70.0,
            "reference": 100.0,
            "ratio": 0.7,
            "goal": 0.85,
            "rounds": 3,
            "met": False,
            "ours_p50_us": 100.0,
            "reference_p99_us": 200.0,
            "ours_cpu_s_per_1000": 0.5,
            "cpu_ratio": 0.4,
            "doubts": [],
        }.items()
    )


@pytest.mark.parametrize(("ours", "verdict"), [(85.0, "0.85 met"), (84.9, "0.85 missed")])
def test_the_table_says_whether_a_goal_is_met(ours: float, verdict: str) -> None:
    console = Console(record=True, width=200, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        report.show([result([rate(ours)], [rate(100)])], console)
        text = console.export_text()
    assert verdict in text
    assert [line.split()[:2] for line in text.splitlines() if line.strip()][2:] == [
        ["hit", f"{ours:.0f}"],
        ["reference", "100"],
    ]


def test_a_doubtful_verdict_has_a_question_mark() -> None:
    console = Console(record=True, width=80, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        report.show([result([rate(90)], [rate(100)], pinned=False)], console)
        text = console.export_text()
    assert "0.85 met?" in text
    assert "hit: not pinned" in text


def test_doubts() -> None:
    assert report.doubts(result([rate(1)], [rate(1)])) == []
    (doubt,) = report.doubts(result([rate(1)], [rate(1)], pinned=False))
    assert "not pinned" in doubt
    busy, noisy = report.doubts(result([rate(1, load_busy=0.95)], [rate(1, foreign=0.2)]))
    assert busy == "the load's core was the limit of ours, which used 50% of its own"
    assert report.doubts(result([rate(1, load_busy=0.95, own=0.97)], [rate(1)])) == []
    assert noisy == "other programs took 20% of the core under test from the reference"


@pytest.mark.timeout(1800)  # which there are depends on the load generator in Rust: a busy machine takes minutes to build it
def test_a_comparison_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--only", "l1_hit_2"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no comparison 'l1_hit_2'; there are l1_hit_1, l1_hit_32, l1_hit_8x16, l1_hit_1_unix, " in line


@pytest.mark.skipif(choose_cores() is None, reason="this machine has one core, or does not pin")
def test_a_core_is_taken_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    cores = choose_cores()
    assert cores is not None
    assert cores.server != cores.load
    with on_core(cores.server):
        assert os.sched_getaffinity(0) == {cores.server}
        meter = BusyMeter()
        deadline = time.monotonic() + 20
        while meter.read()[cores.server] < 0.05:
            assert time.monotonic() < deadline
    assert os.sched_getaffinity(0) == before
