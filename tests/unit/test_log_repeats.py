"""Warnings and errors that repeat are sampled, and what was left out is counted."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest
import structlog

from cache_sidecar.core import log_repeats
from cache_sidecar.core.log_repeats import EVERY, LEFT_OUT, LINES, MAX_KINDS, Repeats
from tests.support.until import until


class Sampler:
    """Repeats with a time that the test sets, and what they reported."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reports: list[tuple[int, str, dict[str, Any]]] = []
        self.repeats = Repeats(
            report=lambda level, event, **facts: self.reports.append((level, event, facts)), monotonic=lambda: self.now
        )

    def log(self, method: str = "warning", **event: Any) -> dict[str, Any] | None:
        """Returns the event as it would be logged; None if it is left out."""
        try:
            return dict(self.repeats(None, method, {"event": "refused"} | event))
        except structlog.DropEvent:
            return None


def test_the_first_lines_of_a_kind_are_logged_and_then_some_with_the_count_of_the_others() -> None:
    sampler = Sampler()
    assert [sampler.log() is not None for _ in range(LINES + 5)] == [True] * LINES + [False] * 5
    sampler.now = EVERY
    assert sampler.log() == {"event": "refused", "left_out": 5}
    assert sampler.log() == {"event": "refused"}


def test_another_level_message_or_subject_is_another_kind() -> None:
    sampler = Sampler()
    for _ in range(LINES):
        sampler.log(which="redis-1")
    assert sampler.log(which="redis-1") is None
    for other in ({"which": "redis-2"}, {"dataset": "cart"}, {"event": "broken"}, {"method": "error", "which": "redis-1"}):
        assert sampler.log(**other) is not None


def test_one_traceback_of_a_defect_is_enough() -> None:
    sampler = Sampler()
    error = KeyError("missing")
    assert sampler.log("error", exc_info=error)
    assert sampler.log("error", exc_info=error) is None
    assert sampler.log("error", exc_info=ValueError())
    sampler.now = EVERY
    again = sampler.log("error", exc_info=error)
    assert again is not None
    assert again["left_out"] == 1


@pytest.mark.parametrize(
    ("method", "more"), [("info", {}), ("debug", {}), ("info", {"audit": True}), ("error", {"audit": True})]
)
def test_other_lines_are_not_sampled(method: str, more: dict[str, object]) -> None:
    sampler = Sampler()
    assert all(sampler.log(method, **more) for _ in range(LINES * 3))


def test_so_many_kinds_are_distinguished_and_all_others_are_one() -> None:
    sampler = Sampler()
    logged = sum(sampler.log(which=str(number)) is not None for number in range(MAX_KINDS * 2))
    assert logged == MAX_KINDS + LINES
    sampler.repeats.report(all=True)
    assert sampler.reports == [(logging.WARNING, LEFT_OUT, {"message": "of other kinds", "left_out": MAX_KINDS - LINES})]


async def test_what_was_left_out_is_logged_though_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_repeats, "EVERY", 0.01)
    reports: list[dict[str, Any]] = []
    repeats = Repeats(report=lambda _level, _event, **facts: reports.append(facts))
    for _ in range(LINES):
        repeats(None, "error", {"event": "refused", "dataset": "cart"})
    with pytest.raises(structlog.DropEvent):
        repeats(None, "error", {"event": "refused", "dataset": "cart"})
    await until(lambda: reports)
    assert reports == [{"message": "refused", "dataset": "cart", "left_out": 1}]


def test_it_goes_on_in_another_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_repeats, "EVERY", 0.01)
    reports: list[dict[str, Any]] = []
    repeats = Repeats(report=lambda _level, _event, **facts: reports.append(facts))

    async def flood() -> None:
        for _ in range(LINES + 1):
            with contextlib.suppress(structlog.DropEvent):
                repeats(None, "error", {"event": "refused"})

    async def flood_and_wait() -> None:
        await flood()
        await until(lambda: reports)

    asyncio.run(flood())
    asyncio.run(flood_and_wait())
    assert reports
