"""Asks all sidecars every few seconds while somebody looks, and compares them."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.dashboard import readings
from cache_sidecar.dashboard.readings import Figures
from cache_sidecar.dashboard.targets import Asking, Found, Target
from cache_sidecar.terminal.access import Access

Json = dict[str, Any]
# Seconds between two looks at the sidecars, and at which ones there are.
EVERY, FIND_EVERY = 2.0, 20.0
# Sidecars that are asked at the same time.
AT_ONCE = 32
# What makes a sidecar differ from the others: points of hit ratio below the median, and times the median of reads, each only
# with so many reads a second; seconds of delay and lag.
RATIO_BELOW, READS_TIMES, LEAST_READS = 0.15, 3.0, 5.0
SLOW_DELAY, LARGE_LAG = 1.0, 10.0


class Look(NamedTuple):
    """The result of asking a sidecar."""

    time: float
    "Monotonic."
    figures: Figures | None
    problem: str
    "Why there are no figures."


class Row(NamedTuple):
    """A sidecar, between two looks."""

    target: Target
    figures: Figures | None
    problem: str
    "Why there are no figures."
    reads: float | None
    "A second; None without a look before, as the next two."
    errors: float | None
    ratio: float | None
    "Of reads that PostgreSQL did not answer; None without reads, too."


class Fleet:
    """See `feed.Source`."""

    def __init__(self, found: Found, access: Access) -> None:
        self._found = found
        self._access = access
        self._background = BackgroundTasks()
        self._state: Json = {"sidecars": None}
        self._round = self._told = 0
        self._first = asyncio.Event()

    def begin(self) -> None:
        """Starts to ask."""
        self._first.clear()
        self._background.spawn(self._run())

    def end(self) -> None:
        """Stops asking."""
        for task in self._background.running:
            task.cancel()

    async def stop(self) -> None:
        """Returns when nothing is asked any more."""
        await self._background.stop()

    async def whole(self) -> Json:
        """Returns the last comparison; waits for the first one."""
        await self._first.wait()
        return self._state

    async def news(self) -> Json:
        """Returns the comparison if there is a new one, or else an empty table."""
        if self._round == self._told:
            return {}
        self._told = self._round
        return self._state

    async def _run(self) -> None:
        targets: list[Target] = []
        problem, find_at = "", 0.0
        last: dict[str, Look] = {}
        async with Asking(self._access) as asking:
            while True:
                began = time.monotonic()
                if began >= find_at:
                    try:
                        targets, problem = await self._found.find(), ""
                    except SidecarError as error:
                        problem = str(error)  # those of before are asked on
                    find_at = began + FIND_EVERY
                    await asking.forget(last.keys() - {target.address for target in targets})
                looks = await _ask_all(asking, targets)
                rows = [_row(target, last.get(target.address), looks[target.address]) for target in targets]
                self._state = {"time": time.time(), "problem": problem, **compare(rows)}
                self._round += 1
                self._first.set()
                last = looks
                await asyncio.sleep(max(0.0, began + EVERY - time.monotonic()))


async def _ask_all(asking: Asking, targets: Iterable[Target]) -> dict[str, Look]:
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(target: Target) -> tuple[str, Look]:
        async with places:
            try:
                found, problem = await asking.ask(target), ""
            except SidecarError as error:
                found, problem = None, str(error)
            except Exception as error:  # noqa: BLE001  # one sidecar's answer must not end the page of all others
                found, problem = None, f"its answer cannot be read: {type(error).__name__}: {error}"
        return target.address, Look(time.monotonic(), found, problem)

    return dict(await asyncio.gather(*map(ask, targets)))


def _row(target: Target, before: Look | None, now: Look) -> Row:
    if now.figures is None:
        return Row(target, None, now.problem, None, None, None)
    if before is None or before.figures is None or before.figures.reads > now.figures.reads:
        return Row(target, now.figures, "", None, None, None)  # just found, or just started
    seconds = max(now.time - before.time, 1e-3)
    reads, cached = now.figures.reads - before.figures.reads, now.figures.cached - before.figures.cached
    errors = max(0, now.figures.errors - before.figures.errors)
    return Row(target, now.figures, "", reads / seconds, errors / seconds, cached / reads if reads else None)


def compare(rows: Iterable[Row]) -> Json:
    """Returns sums, and the sidecars: those first that fail, cannot be reached, or differ from the others."""
    rows = list(rows)
    there = [row for row in rows if row.figures is not None]
    reads = sum(row.reads or 0.0 for row in there)
    cached = sum((row.reads or 0.0) * row.ratio for row in there if row.ratio is not None)
    versions = Counter(row.figures.version for row in there if row.figures)
    policies = Counter(row.figures.policy_version for row in there if row.figures)
    busy = [row for row in there if (row.reads or 0.0) >= LEAST_READS]
    usual = {
        "version": versions.most_common(1)[0][0] if versions else "",
        "policy": policies.most_common(1)[0][0] if policies else 0,
        "ratio": statistics.median(row.ratio for row in busy if row.ratio is not None) if busy else None,
        "reads": statistics.median(row.reads or 0.0 for row in busy) if busy else None,
    }
    shown = [_as_json(row, _differences(row, usual)) for row in rows]
    shown.sort(key=lambda one: (one["rank"], one["name"]))
    return {
        "sidecars": shown,
        "reachable": len(there),
        "reads": reads,
        "ratio": cached / reads if reads else None,
        "errors": sum(row.errors or 0.0 for row in there),
        "versions": dict(versions.most_common()),
        "policies": {str(version): count for version, count in policies.most_common()},
    }


def _differences(row: Row, usual: Mapping[str, Any]) -> list[str]:
    """Returns in what a sidecar differs from most others, one sentence each."""
    found, now = [], row.figures
    if now is None:
        return []
    if now.version != usual["version"]:
        found.append(f"version {now.version}; most have {usual['version']}")
    if now.policy_version != usual["policy"]:
        found.append(f"policy version {now.policy_version}; most have {usual['policy']}")
    if row.reads is not None and row.reads >= LEAST_READS:
        if row.ratio is not None and row.ratio < usual["ratio"] - RATIO_BELOW:
            found.append(f"hit ratio {row.ratio:.0%}; the median is {usual['ratio']:.0%}")
        if row.reads > READS_TIMES * usual["reads"]:
            found.append(f"{row.reads / usual['reads']:.1f} times the median of reads")
    if now.delay is not None and now.delay > SLOW_DELAY:
        found.append(f"invalidations take up to {now.delay:.1f} s")
    if now.lag > LARGE_LAG:
        found.append(f"its relay is {now.lag:.0f} s behind")
    return found


def _as_json(row: Row, differences: list[str]) -> Json:
    more = readings.as_json(row.figures) if row.figures is not None else {"problems": []}
    is_failing = bool(more["problems"])
    return {
        "name": row.target.name,
        "address": row.target.address,
        "unreachable": row.problem,
        "reads": row.reads,
        "ratio": row.ratio,
        "errors": row.errors,
        "differences": differences,
        "rank": 0 if is_failing else 1 if row.problem else 2 if differences else 3,
        **more,
    }
