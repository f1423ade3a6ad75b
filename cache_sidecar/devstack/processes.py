"""Child processes. Each is recorded before it runs, so that the next start can stop those that a kill -9 left behind.

A child starts as a shell that waits for one line of input before it executes the program. The line is sent once the child is
recorded in `processes.json`. If the parent dies before that, the shell reads end of file and exits: no child runs unrecorded.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.devstack.accounts import Account
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.waiting import until

RECORDS = "processes.json"
_LAUNCH = ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh"]
# Seconds that a process has to exit before it is killed.
STOP_SECONDS = 6.0
# Tolerance in seconds. Start times are computed from the boot time, which changes slightly when the clock is adjusted; a pid is
# not reused this soon.
_SAME_START = 2.0


class Record(NamedTuple):
    """A process as recorded in `processes.json`."""

    role: str
    pid: int
    create_time: float
    "In seconds since the epoch, according to psutil."
    stop_signal: int
    "The signal that makes it shut down cleanly."


class ChildFailed(ServerUnreachable):
    """A child exited before it was ready. `code` is its exit code, negative for a signal."""

    def __init__(self, child: "Child") -> None:
        self.code = child.code
        super().__init__(f"{child.role} did not start: {child.last_line()} (log: {child.log})")


class Child:
    """A child process in its own session, so that a Ctrl-C in the terminal does not reach it."""

    def __init__(self, role: str, process: "subprocess.Popen[bytes]", log: Path, stop_signal: int) -> None:
        self.role = role
        self.log = log
        self.paused = False
        self._process = process
        self._stop_signal = stop_signal

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not exited yet. True for a paused process."""
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def end(self) -> str:
        """Returns how it exited, in words."""
        if self.code is None:
            return "runs"
        if self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"has exited with code {self.code}" + (f": {self.last_line()}" if self.code else "")

    def record(self) -> Record:
        """Returns the record by which a later start can find it."""
        return Record(self.role, self.pid, psutil.Process(self.pid).create_time(), self._stop_signal)

    def last_line(self) -> str:
        """Returns the line of its log that says why it exited: the last FATAL one, else the last one, else the exit code."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        # PostgreSQL logs more lines after the FATAL one, which has the reason.
        fatal = [line for line in lines if " FATAL: " in line]
        return (fatal or lines or [f"exit code {self.code}, and no log"])[-1]

    def kill(self) -> None:
        """Kills it and its descendants, like a crash of the machine."""
        family = self._signal_family(signal.SIGKILL)
        self._process.wait()
        while not all(_is_gone(process) for process in family):
            time.sleep(0.005)
        self.paused = False

    def pause(self) -> None:
        """Suspends it and its descendants: the kernel still accepts connections, but nothing is answered."""
        self._signal_family(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Resumes it and its descendants."""
        self._signal_family(signal.SIGCONT)
        self.paused = False

    def _signal_family(self, number: int) -> list[psutil.Process]:
        # The process ID of a process that has exited may have been reused.
        family = _family(self.pid) if self.running else []
        _signal(family, number)
        return family

    async def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Shuts it down cleanly, and kills it if that takes longer than `seconds`."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            self.resume()
        if not await self.wait(seconds=seconds):
            await asyncio.to_thread(self.kill)

    async def wait(self, *, seconds: float) -> bool:
        """Waits for it to exit. Returns False if it still runs after that many seconds."""

        async def has_ended() -> bool:
            return not self.running

        return await until(has_ended, seconds=seconds)


class Processes:
    """The child processes of one stack, recorded in its state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self.logs = state.path / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._state = state
        self._children: dict[str, Child] = {}
        self._records: dict[str, Record] = {}

    @property
    def state(self) -> StateDirectory:
        """The state directory."""
        return self._state

    def start(
        self,
        role: str,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> Child:
        """Starts a program in `directory`, with its output in `logs/ROLE.log`. A role can be started again after it exited."""
        log = self.logs / f"{role}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  # not user input
                [*_LAUNCH, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
                start_new_session=True,
                **(account.as_process_options() if account else {}),
            )
        child = Child(role, process, log, stop_signal)
        self._children[role] = child
        self._records[role] = child.record()
        self._save()
        _release(process)
        return child

    async def stop(self, children: Sequence[Child]) -> None:
        """Stops some of them, in parallel."""
        await asyncio.gather(*(child.stop() for child in children))
        for child in children:
            if self._children.get(child.role) is child:
                del self._children[child.role], self._records[child.role]
        self._save()

    async def stop_all(self) -> None:
        """Stops the remaining ones."""
        await self.stop(self.children())

    def kill_all(self) -> None:
        """Kills all of them."""
        for child in self.children():
            child.kill()

    def children(self) -> list[Child]:
        """Returns those that were started and not stopped."""
        return list(self._children.values())

    def find_dead(self) -> list[Child]:
        """Returns those that have exited without being stopped."""
        return [child for child in self.children() if not child.running]

    def _save(self) -> None:
        self._state.write(RECORDS, json.dumps([record._asdict() for record in self._records.values()], indent=1))


async def end_leftovers(state: StateDirectory) -> list[str]:
    """Stops processes that an earlier owner of the directory left running. Returns their roles.

    A process is stopped only if both its pid and its start time match the record: the pid may have been reused.
    """
    left = [(record, process) for record in _read_records(state) if (process := _find(record)) is not None]
    families = [process for _, parent in left for process in _family(parent.pid)]
    for record, process in left:
        _signal([process], record.stop_signal)
    _signal(families, signal.SIGCONT)
    if not await until(lambda: _are_gone(process for _, process in left), seconds=STOP_SECONDS):
        _signal(families, signal.SIGKILL)
        await until(lambda: _are_gone(families), seconds=STOP_SECONDS)
    state.remove(RECORDS)
    return [record.role for record, _ in left]


def find_dead_roles(state: StateDirectory) -> list[str]:
    """Returns the roles of recorded processes that do not run."""
    return [record.role for record in _read_records(state) if _find(record) is None]


def _read_records(state: StateDirectory) -> list[Record]:
    try:
        return [Record(**record) for record in json.loads((state.path / RECORDS).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _find(record: Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.create_time) < _SAME_START
    except psutil.NoSuchProcess:
        return None
    return process if same and not _is_gone(process) else None


def _family(pid: int) -> list[psutil.Process]:
    """Returns a process and its descendants. PostgreSQL's are in their own sessions, so a signal to the group misses them."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _are_gone(processes: Iterable[psutil.Process]) -> bool:
    return all(_is_gone(process) for process in processes)


def _release(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is None:
        raise ValueError("the child has no pipe to wait on")
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(b"\n")
