"""The use of cores, and how busy each was."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped,unused-ignore]


@dataclass(frozen=True, kw_only=True)
class Cores:
    """The core of the server under test, and the core of everything else: load, Redis, PostgreSQL."""

    server: int
    load: int


def choose_cores() -> Cores | None:
    """Returns two cores this process may use; None if there is only one, or pinning is not supported."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    # The first core also handles most interrupts: it runs the load generator.
    return Cores(server=allowed[-1], load=allowed[0]) if len(allowed) > 1 else None


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Runs its body, and every process started in it, on one core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class BusyMeter:
    """Busy seconds of cores since its creation, by any program, including stolen time."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._idle = _idle_seconds()

    def read(self) -> list[float]:
        """Returns the busy seconds of each core."""
        elapsed = time.perf_counter() - self._start
        return [max(0.0, elapsed - (now - then)) for now, then in zip(_idle_seconds(), self._idle, strict=True)]


def _idle_seconds() -> list[float]:
    return [times.idle + getattr(times, "iowait", 0.0) for times in psutil.cpu_times(percpu=True)]
