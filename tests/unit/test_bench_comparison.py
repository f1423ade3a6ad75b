"""Rounds, ratios, and what is said of them."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.bench import report
from tests.bench.__main__ import choose, run
from tests.bench.comparison import NO_WORSE, TRIES, Comparison, Measured, Result, Unmeasured, attempt, compare, versus
from tests.bench.machine import BusyMeter, choose_cores, on_core
from tests.bench.processes import BenchError, Skipped
from tests.bench.versions import unpacked


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


def sides_of(
    ours: Callable[[float], Measured], reference: Callable[[float], Measured], opened: list[str], name: str = ""
) -> Any:
    @contextmanager
    def sides() -> Iterator[tuple[Callable[[float], Measured], Callable[[float], Measured]]]:
        opened.append(name)
        yield ours, reference

    return sides


def test_what_cannot_be_measured_at_a_bad_moment_is_tried_again_with_everything_started_anew() -> None:
    opened: list[str] = []

    def ours(_seconds: float) -> Measured:
        if len(opened) == 1:
            raise BenchError("a reply to be measured from L1 came from the store")
        return rate(90)

    comparison = Comparison(name="hit", goal=0.85, sides=sides_of(ours, lambda _: rate(100), opened))
    found = attempt(comparison, rounds=3, seconds=1.0, pinned=True, tell=lambda _: None)
    assert isinstance(found, Result)
    assert (found.ratios, len(opened)) == ([0.9] * 3, 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BenchError("it came from the store"), "it came from the store"), (TimeoutError("late"), "TimeoutError: late")],
)
def test_what_cannot_be_measured_at_all_is_a_row_that_says_why(error: Exception, reason: str, tmp_path: Path) -> None:
    opened: list[str] = []

    def ours(_seconds: float) -> Measured:
        raise error

    comparison = Comparison(name="hit", goal=0.85, sides=sides_of(ours, lambda _: rate(100), opened))
    found = attempt(comparison, rounds=3, seconds=1.0, pinned=True, tell=lambda _: None)
    assert found == Unmeasured(name="hit", unit="calls/s", goal=0.85, by="calls", reason=reason)
    assert len(opened) == TRIES
    report.write([found, result([rate(90)], [rate(100)])], tmp_path / "bench.json")
    nothing, something = json.loads((tmp_path / "bench.json").read_text())
    assert nothing.items() >= {"name": "hit", "ours": None, "ratio": None, "goal": 0.85, "met": False, "error": reason}.items()
    assert something["ratio"] == 0.9
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    with console.file:
        report.show([found, result([rate(90)], [rate(100)]), result([rate(80)], [rate(100)])], console)
        text = console.export_text()
    assert f"hit: {reason}" in text
    assert "1 of 3 met their goals; missed: hit; not measured: hit" in text


def test_what_needs_something_that_is_not_installed_is_skipped_visibly() -> None:
    opened: list[str] = []

    def ours(_seconds: float) -> Measured:
        raise Skipped("Go is not there")

    comparison = Comparison(name="client_go", goal=0.9, sides=sides_of(ours, lambda _: rate(100), opened))
    found = attempt(comparison, rounds=3, seconds=1.0, pinned=True, tell=lambda _: None)
    assert isinstance(found, Unmeasured)
    assert (found.is_skipped, len(opened)) == (True, 1)
    assert report.line(found) == "client_go: skipped: Go is not there"
    console = Console(record=True, width=200)
    report.show([found, result([rate(90)], [rate(100)])], console)
    assert "1 of 2 met their goals; skipped: client_go" in console.export_text()


def test_an_interrupted_run_ends() -> None:
    def ours(_seconds: float) -> Measured:
        raise KeyboardInterrupt

    comparison = Comparison(name="hit", goal=0.85, sides=sides_of(ours, lambda _: rate(100), []))
    with pytest.raises(KeyboardInterrupt):
        attempt(comparison, rounds=3, seconds=1.0, pinned=True, tell=lambda _: None)


def test_two_versions_are_measured_in_turns_and_their_references_are_not() -> None:
    opened: list[str] = []

    def no_reference(_seconds: float) -> Measured:
        raise AssertionError

    ours = Comparison(name="hit", goal=12.0, by="cpu", sides=sides_of(lambda _: rate(110), no_reference, opened, "ours"))
    base = Comparison(name="hit", goal=12.0, by="cpu", sides=sides_of(lambda _: rate(100), no_reference, opened, "base"))
    found = compare(versus(ours, base), rounds=2, seconds=1.0, pinned=True, tell=lambda _: None)
    assert opened == ["ours", "base"]
    assert ([one.calls_per_second for one in (found.ours[0], found.reference[0])], found.goal) == ([110, 100], NO_WORSE)


def test_a_commit_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no commit 'nowhere'"):
        unpacked("nowhere", tmp_path)


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
    assert [line.split()[:2] for line in text.splitlines() if line.strip()][2:-1] == [
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


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (None, ["l1_hit_1", "l1_hit_32", "cart_add"]),
        ("l1_*", ["l1_hit_1", "l1_hit_32"]),
        ("*_32,cart_add", ["l1_hit_32", "cart_add"]),
    ],
)
def test_comparisons_are_chosen_by_patterns(only: str | None, names: list[str]) -> None:
    made = [Comparison(name=name, goal=1.0, sides=sides_of(rate, rate, [])) for name in ("l1_hit_1", "l1_hit_32", "cart_add")]
    assert [comparison.name for comparison in choose(made, only)] == names


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
