"""The level of the log is changed for a while."""

import asyncio
from typing import Any

import pytest
import structlog

from cache_sidecar.core.log_level import LEVELS, LogLevel
from tests.support.clocks import ManualClock
from tests.support.until import until


def shown(level: LogLevel, **more: object) -> list[str]:
    """Returns the levels at which lines are logged."""
    found = []
    for method in LEVELS:
        event: dict[str, Any] = {"event": "one", **more}
        try:
            level(None, method, event)
        except structlog.DropEvent:
            continue
        found.append(method)
    return found


@pytest.mark.parametrize("name", LEVELS)
def test_what_is_below_the_level_is_dropped(name: str) -> None:
    level = LogLevel(name)
    assert shown(level) == list(LEVELS[LEVELS.index(name) :])
    assert shown(level, audit=True) == list(LEVELS)
    assert level.shows_debug == (name == "debug")


async def test_it_is_reset_after_a_while() -> None:
    clock = ManualClock()
    level = LogLevel("warning", clock=clock)
    level.change("debug", 0.01)
    assert (level.current, level.configured, level.reset_at) == ("debug", "warning", clock.now() + 0.01)
    await until(lambda: level.current == "warning")
    assert level.reset_at is None


async def test_a_second_change_outlives_the_end_of_the_first() -> None:
    level = LogLevel("warning")
    level.change("debug", 0.01)
    level.change("info", 60)
    await asyncio.sleep(0.05)  # in which nothing may happen
    assert level.current == "info"
    level.reset()
    assert (level.current, level.reset_at) == ("warning", None)
