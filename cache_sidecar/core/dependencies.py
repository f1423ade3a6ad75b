"""The dependencies of a process and their state: the one place that logs it, and that GetStats reads.

Code that uses a server reports to its `Dependency`: `failed` with the server's message, `works` when it recovers. One warning
is logged when a dependency begins to fail, and one line when it has recovered, however many calls are affected.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cache_sidecar.core import masks, telemetry
from cache_sidecar.core.clock import Clock, SystemClock

# Minimum seconds between two warnings about one dependency, and reasons logged per outage: a dependency that flaps, or whose
# message changes each time, must not flood the log.
QUIET = 5.0
MAX_REASONS = 8
# Reasons are truncated to this many characters.
MAX_LENGTH = 500


class Failing(NamedTuple):
    """A dependency that is failing now."""

    what: str
    which: str
    effect: str
    reason: str
    since: float
    "In seconds since the epoch."


class _Problem:
    __slots__ = ("effect", "last", "reason", "since")

    def __init__(self, reason: str, effect: str, since: float, last: float) -> None:
        self.reason, self.effect, self.since, self.last = reason, effect, since, last


class Breaker(Protocol):
    """What metrics show of a circuit breaker; `tiers.resilience.breaker`."""

    opened: int

    @property
    def is_open(self) -> bool:
        """Whether work is being refused."""
        ...


class Dependency:
    """A Redis node, a database, a relay. It is failing as long as one of its problems lasts."""

    def __init__(self, what: str, which: str, owner: "Dependencies") -> None:
        self.what = what
        self.which = which
        self._owner = owner
        self._problems: dict[str, _Problem] = {}
        self._logged: set[str] = set()
        "The reasons logged since it began to fail."
        self._quiet_until = 0.0
        self.breakers: dict[str, Breaker] = {}
        "Those in front of it, by the problem that each reports while it is open."

    @property
    def is_failing(self) -> bool:
        """Whether it has a problem."""
        return bool(self._problems)

    def report_failure(self, reason: str, *, effect: str, problem: str = "", **facts: str) -> bool:
        """Records a failure. `problem` names one of several that arise and end independently.

        `reason` is the server's own message, `effect` what it means for callers. Returns whether the failure was logged, with
        `facts`; if so, the caller need not log it.
        """
        now, reason = self._owner.monotonic(), _as_line(reason)
        is_news = not self._problems
        known = self._problems.get(problem)
        if known is None:
            self._problems[problem] = _Problem(reason, effect, self._owner.clock.now(), now)
        else:
            known.reason, known.effect, known.last = reason, effect, now
        is_logged = reason not in self._logged and now >= self._quiet_until and len(self._logged) < MAX_REASONS
        if is_logged:
            self._logged.add(reason)
            self._quiet_until = now + QUIET
            self._owner.log_change(logging.WARNING, "a dependency fails", self, reason=reason, effect=effect, **facts)
        if is_news:
            self._owner.something_failed.set()
        return is_logged

    def report_success(self, problem: str | None = None, *, before: float | None = None) -> None:
        """Records that a problem, or each one, is over; with `before`, a monotonic time, unless it occurred since then."""
        for name in [problem] if problem is not None else list(self._problems):
            known = self._problems.get(name)
            if known is not None and (before is None or known.last < before):
                del self._problems[name]
        if not self._problems and self._logged:
            self._logged.clear()
            self._owner.log_change(logging.INFO, "a dependency works again", self)

    def failing(self) -> Failing | None:
        """Returns the state of a failing dependency, its oldest problem first; None if it has no problem."""
        if not self._problems:
            return None
        problems = sorted(self._problems.values(), key=lambda one: one.since)
        reasons = "; ".join(dict.fromkeys(one.reason for one in problems))
        return Failing(self.what, self.which, problems[0].effect, reasons, problems[0].since)


class Dependencies:
    """The dependencies of a process."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        is_logged: bool = True,
    ) -> None:
        """`is_logged` is false in commands, which report failures to their user."""
        self.clock = clock or SystemClock()
        self.monotonic = monotonic
        self._is_logged = is_logged
        self.something_failed = asyncio.Event()
        "Set when a dependency begins to fail; cleared by the task that waits for it."
        self._all: dict[tuple[str, str], Dependency] = {}
        self._followers: list[Callable[[int, str], None]] = []

    def follow(self, on_change: Callable[[int, str], None]) -> None:
        """Calls `on_change` with each change of a dependency's state from now on: its log level, and a sentence."""
        self._followers.append(on_change)

    def of(self, what: str, which: str = "") -> Dependency:
        """Returns a dependency, such as `redis` at a host:port; `Degradation` in the protos lists the kinds."""
        return self._all.setdefault((what, which), Dependency(what, which, self))

    def forget(self, what: str, which: str) -> None:
        """Removes a dependency, such as a node that left the cluster."""
        dependency = self._all.pop((what, which), None)
        if dependency is not None and dependency.is_failing:
            self.log_change(logging.INFO, "a dependency is no longer needed", dependency)

    def all(self) -> list[Dependency]:
        """Returns the dependencies that are known, failing or not."""
        return list(self._all.values())

    def failing(self) -> list[Failing]:
        """Returns the dependencies that are failing now."""
        return [found for dependency in self._all.values() if (found := dependency.failing()) is not None]

    def log_change(self, level: int, event: str, dependency: Dependency, **facts: str) -> None:
        """Logs a change of a dependency's state."""
        if self._is_logged:
            telemetry.log.log(level, event, what=dependency.what, which=dependency.which, **facts)
        why = f": {facts['effect']}: {facts['reason']}" if "reason" in facts else ""
        for on_change in self._followers:
            on_change(level, f"{event}: {dependency.what} {dependency.which}".rstrip() + why)


def _as_line(reason: str) -> str:
    """Returns a reason as one line, with passwords masked."""
    return " ".join(masks.mask(reason).split())[:MAX_LENGTH]
