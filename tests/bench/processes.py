"""Processes that a benchmark starts, pins, watches and stops."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from cache_sidecar.config.settings import PREFIX
from tests.bench.machine import on_core

START_SECONDS = 300
_STOP_SECONDS = 30


class BenchError(Exception):
    """A comparison failed; the text is one line."""


class Skipped(BenchError):
    """What a comparison needs is not installed."""


class Process:
    """A program that the benchmark runs."""

    def __init__(self, popen: "subprocess.Popen[str]", name: str, log: Path) -> None:
        self.name = name
        self._popen = popen
        self._log = log
        self._psutil = psutil.Process(popen.pid)

    def cpu_seconds(self) -> float:
        """Returns its CPU time so far, of all threads."""
        if sys.platform == "linux":
            # In nanoseconds; what /proc has are hundredths of a second, too coarse for short rounds on a busy machine.
            # This is clock_getcpuclockid(3).
            return time.clock_gettime(~self._popen.pid << 3 | 2)
        times = self._psutil.cpu_times()
        return float(times.user + times.system)

    def ask(self, line: str, *, seconds: float = START_SECONDS) -> str:
        """Writes a line, if it is not empty, and returns the next line it prints; for programs run with `answers`."""
        stdin, stdout = self._popen.stdin, self._popen.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            if line:
                stdin.write(line + "\n")
                stdin.flush()
            ready, _, _ = select.select([stdout], [], [], seconds)
            answer = stdout.readline() if ready else ""
        except OSError:
            answer = ""
        if not answer:
            raise BenchError(f"{self.name} gave no answer within {seconds} s{self._last_words()}")
        return answer.strip()

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Waits until a condition holds; raises BenchError if the process ends first, or after a timeout."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self._popen.poll() is not None:
                raise BenchError(f"{self.name} ended with {self._popen.returncode}{self._last_words()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} was not ready within {START_SECONDS} s{self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""

    def stop(self) -> None:
        """Terminates it and waits for its end."""
        self._popen.terminate()
        try:
            self._popen.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate()


@contextmanager
def running(
    name: str,
    arguments: Sequence[str],
    *,
    core: int | None,
    directory: Path,
    answers: bool = False,
    is_python: bool = True,
    code: Path | None = None,
) -> Iterator[Process]:
    """Runs `python -m ARGUMENTS` on a core while the body runs; without Python, the arguments as they are.

    Its output goes to NAME.log in a directory. With `answers` its input and output are for `Process.ask`, and only errors
    go to the log. `code` is a folder with another version of the project.
    """
    log = directory / f"{name}.log"
    with on_core(core), log.open("w") as output:
        popen = subprocess.Popen(
            (sys.executable, "-m", *arguments) if is_python else arguments,
            stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
            stdout=subprocess.PIPE if answers else output,
            stderr=output,
            text=True,
            # Python searches there before installed packages.
            cwd=code,
            # The user's own settings would override those of the comparison.
            env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        )
    process = Process(popen, name, log)
    try:
        yield process
    finally:
        process.stop()
