"""What fails is said once, in its own words, and once more when it is over; what flaps does not flood the log."""

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core import masks
from cache_sidecar.core.dependencies import MAX_REASONS, QUIET, Dependencies, Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.resilience.breaker import BREAK_AFTER, Breaker
from tests.support.clocks import ManualClock


class Time:
    """Monotonic time that is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def made(**more: Any) -> tuple[Dependency, Time, ManualClock]:
    clock, time = ManualClock(), Time()
    return Dependencies(clock=clock, monotonic=time, **more).of("redis", "host:1"), time, clock


def levels(log: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["log_level"] for line in log]


def fail(dependency: Dependency, reason: str = "NOPERM", problem: str = "") -> None:
    dependency.report_failure(reason, effect="slow", problem=problem)


def test_one_warning_and_one_line_when_it_is_over() -> None:
    dependency, time, clock = made()
    with capture_logs() as log:
        since = clock.now()
        for _ in range(1000):
            fail(dependency)
            time.seconds += 1
            clock.advance(1)
        assert levels(log) == ["warning"]
        assert log[0] | {"what": "redis", "which": "host:1", "reason": "NOPERM", "effect": "slow"} == log[0]
        found = dependency.failing()
        assert found is not None
        assert (found.reason, found.since) == ("NOPERM", since)
        dependency.report_success()
        dependency.report_success()
        assert levels(log) == ["warning", "info"]
        assert dependency.failing() is None


def test_another_reason_is_said_too_but_not_at_once_and_not_for_ever() -> None:
    dependency, time, _ = made()
    with capture_logs() as log:
        fail(dependency, "refused")
        fail(dependency, "timeout")
        assert levels(log) == ["warning"]
        time.seconds += QUIET
        fail(dependency, "timeout")
        fail(dependency, "refused")
        assert [line["reason"] for line in log] == ["refused", "timeout"]
        for number in range(100):
            time.seconds += QUIET
            fail(dependency, f"reason {number}")
        assert len(log) == MAX_REASONS


def test_what_flaps_is_said_as_often_as_the_quiet_time_allows() -> None:
    dependency, time, _ = made()
    with capture_logs() as log:
        for _ in range(1000):
            fail(dependency)
            dependency.report_success()
            time.seconds += QUIET / 100
    assert len(log) == 2 * 10
    assert levels(log) == ["warning", "info"] * 10


def test_it_fails_as_long_as_one_of_its_problems_lasts() -> None:
    dependency, time, _ = made()
    with capture_logs() as log:
        fail(dependency, "NOPERM set", "set")
        time.seconds += 1
        fail(dependency, "NOPERM get", "get")
        dependency.report_success("set")
        found = dependency.failing()
        assert found is not None
        assert found.reason == "NOPERM get"
        assert levels(log) == ["warning"]
        dependency.report_success("get")
        assert levels(log) == ["warning", "info"]


def test_a_check_ends_only_what_nobody_met_since_it_began() -> None:
    dependency, time, _ = made()
    fail(dependency, "old", "old")
    began = time.seconds = time.seconds + 1
    fail(dependency, "new", "new")
    dependency.report_success(before=began)
    found = dependency.failing()
    assert found is not None
    assert found.reason == "new"


@pytest.mark.parametrize("reason", ["no one\n  but secret/word", "secret%2Fword"])
def test_secrets_are_not_shown(reason: str) -> None:
    masks.add("secret/word")
    dependency, _, _ = made()
    with capture_logs() as log:
        fail(dependency, reason)
    assert "secret" not in str(log)
    assert "***" in log[0]["reason"]
    assert "\n" not in log[0]["reason"]
    found = dependency.failing()
    assert found is not None
    assert "secret" not in found.reason


def test_what_is_not_logged_is_known_all_the_same() -> None:
    dependency, _, _ = made(is_logged=False)
    with capture_logs() as log:
        fail(dependency)
        assert dependency.is_failing
        dependency.report_success()
    assert log == []


def test_what_is_needed_no_more_does_not_fail() -> None:
    dependencies = Dependencies()
    fail(dependencies.of("redis", "a:1"))
    fail(dependencies.of("redis", "b:1"))
    with capture_logs() as log:
        dependencies.forget("redis", "a:1")
    assert [line["event"] for line in log] == ["a dependency is no longer needed"], "it does not work again: it is gone"
    assert [one.which for one in dependencies.failing()] == ["b:1"]


def test_a_breaker_tells_when_it_opens_and_closes() -> None:
    dependency, _, clock = made()
    breaker = Breaker(Tier.L2, clock=clock, dependency=dependency, effect="away")
    error = TierFailed(Tier.L2, Failure.UNREACHABLE, "Connection refused")
    for _ in range(BREAK_AFTER - 1):
        breaker.record_failure(error)
    assert not dependency.is_failing
    breaker.record_failure(error)
    found = dependency.failing()
    assert found is not None
    assert (found.reason, found.effect) == ("Connection refused", "away")
    with pytest.raises(TierFailed, match="Connection refused"):
        breaker.admit()
    breaker.record_failure(TierFailed(Tier.L2, Failure.REFUSED, "NOPERM"))
    assert not dependency.is_failing, "it answers"
