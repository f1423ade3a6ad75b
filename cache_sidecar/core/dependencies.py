"""What a process depends on, and how each of it is doing: THE place that knows, logs, and tells GetStats.

Whoever uses a server reports to its `Dependency`: `failed` with the server's own words, `works` when it does again. One warning
is logged when a dependency begins to fail, and one line when all is well again, however many calls meet it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock, SystemClock

# Seconds between two warnings about one dependency at least, and reasons that are told apart in one outage: what flaps, or
# fails in ever new words, must not flood the log.
QUIET = 5.0
MAX_REASONS = 8
# A reason is cut off after so many characters.
MAX_LENGTH = 500


class Failing(NamedTuple):
    """A dependency that fails now."""

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


class Dependency:
    """One of them: a Redis node, a database, a relay. It fails as long as one of its problems lasts."""

    def __init__(self, what: str, which: str, owner: "Dependencies") -> None:
        self.what = what
        self.which = which
        self._owner = owner
        self._problems: dict[str, _Problem] = {}
        self._said: set[str] = set()
        "The reasons that were logged since it began to fail."
        self._quiet_until = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether it has a problem."""
        return bool(self._problems)

    def failed(self, reason: str, *, effect: str, problem: str = "", **facts: str) -> bool:
        """Takes that it failed, with its own words; `problem` tells apart what fails and recovers independently.

        Returns whether that is logged, with `facts`; if so, nobody else need say it.
        """
        now, reason = self._owner.monotonic(), self._owner.shown(reason)
        is_news = not self._problems
        known = self._problems.get(problem)
        if known is None:
            self._problems[problem] = _Problem(reason, effect, self._owner.clock.now(), now)
        else:
            known.reason, known.effect, known.last = reason, effect, now
        is_said = reason not in self._said and now >= self._quiet_until and len(self._said) < MAX_REASONS
        if is_said:
            self._said.add(reason)
            self._quiet_until = now + QUIET
            self._owner.say(logging.WARNING, "a dependency fails", self, reason=reason, effect=effect, **facts)
        if is_news:
            self._owner.something_failed.set()
        return is_said

    def works(self, problem: str | None = None, *, before: float | None = None) -> None:
        """Takes that a problem is over, or all are; given `before`, a monotonic time, only those that nobody met since then."""
        for name in [problem] if problem is not None else list(self._problems):
            known = self._problems.get(name)
            if known is not None and (before is None or known.last < before):
                del self._problems[name]
        if not self._problems and self._said:
            self._said.clear()
            self._owner.say(logging.INFO, "a dependency works again", self)

    def failing(self) -> Failing | None:
        """Returns what is wrong, the oldest problem first; None when all is well."""
        if not self._problems:
            return None
        problems = sorted(self._problems.values(), key=lambda one: one.since)
        reasons = "; ".join(dict.fromkeys(one.reason for one in problems))
        return Failing(self.what, self.which, problems[0].effect, reasons, problems[0].since)


class Dependencies:
    """All of them."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        secrets: Iterable[str] = (),
        is_logged: bool = True,
    ) -> None:
        """`secrets` are never shown, whoever's words they are in. What is not logged is for commands that tell the user."""
        self.clock = clock or SystemClock()
        self.monotonic = monotonic
        self._is_logged = is_logged
        self.something_failed = asyncio.Event()
        "Set when a dependency begins to fail; whoever waits for it clears it."
        self._secrets = [secret for secret in secrets if secret]
        self._all: dict[tuple[str, str], Dependency] = {}

    def of(self, what: str, which: str = "") -> Dependency:
        """Returns a dependency, such as `redis` and its host:port; the kinds are those of `Degradation` in the protos."""
        return self._all.setdefault((what, which), Dependency(what, which, self))

    def forget(self, what: str, which: str) -> None:
        """Takes that a dependency is needed no more."""
        dependency = self._all.pop((what, which), None)
        if dependency is not None and dependency.is_failing:
            self.say(logging.INFO, "a dependency is needed no more", dependency)

    def failing(self) -> list[Failing]:
        """Returns those that fail now."""
        return [found for dependency in self._all.values() if (found := dependency.failing()) is not None]

    def say(self, level: int, event: str, dependency: Dependency, **facts: str) -> None:
        """Logs a change of state."""
        if self._is_logged:
            telemetry.log.log(level, event, what=dependency.what, which=dependency.which, **facts)

    def shown(self, reason: str) -> str:
        """Returns one line of a reason, without secrets."""
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return " ".join(reason.split())[:MAX_LENGTH]
