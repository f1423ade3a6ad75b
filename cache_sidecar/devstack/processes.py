"""Child processes that outlive no one: each is recorded before it runs, so that the next start can end what a kill -9 left.

A child is started as a shell that waits for one line on its input before it becomes the program. The line is sent once the
child is in `processes.json`; a parent that dies before that leaves a shell that reads end of file, and goes away by itself.
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
# Seconds that a process gets to end by itself before it is killed.
STOP_SECONDS = 6.0
# Start times are computed from the boot time, which moves a little when the clock is adjusted. A pid cannot come round again
# within this many seconds.
_SAME_START = 2.0


class Record(NamedTuple):
    """A process as `processes.json` keeps it."""

    role: str
    pid: int
    create_time: float
    "As psutil says it, in seconds since the epoch."
    stop_signal: int
    "What ends it in good order."


class ChildFailed(ServerUnreachable):
    """A child ended before it was of use; `code` is its exit code, negative for a signal."""

    def __init__(self, child: "Child") -> None:
        self.code = child.code
        super().__init__(f"{child.role} did not start: {child.last_line()} (log: {child.log})")


class Child:
    """A process started here, in a session of its own: a Ctrl-C in the terminal does not reach it."""

    def __init__(self, role: str, process: "subprocess.Popen[bytes]", log: Path, stop_signal: int) -> None:
        self.role = role
        self.log = log
        self.paused = False
        self._process = process
        self._stop_signal = stop_signal

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet; a paused one runs."""
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def record(self) -> Record:
        """Returns what finds it again."""
        return Record(self.role, self.pid, psutil.Process(self.pid).create_time(), self._stop_signal)

    def last_line(self) -> str:
        """Returns the line of its log that says why it ended: the last one, or the last that is fatal; or how it ended."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        # PostgreSQL says more after that, and none of it is the reason.
        fatal = [line for line in lines if " FATAL: " in line]
        return (fatal or lines or [f"exit code {self.code}, and no log"])[-1]

    def kill(self) -> None:
        """Ends it and what it started at once, as a crash of the machine would."""
        family = self._signal_family(signal.SIGKILL)
        self._process.wait()
        while not all(_gone(process) for process in family):
            time.sleep(0.005)
        self.paused = False

    def pause(self) -> None:
        """Stops it and what it started in their tracks: they accept connections and answer nothing."""
        self._signal_family(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Lets them go on."""
        self._signal_family(signal.SIGCONT)
        self.paused = False

    def _signal_family(self, number: int) -> list[psutil.Process]:
        # The id of one that ended may be somebody else's by now.
        family = _family(self.pid) if self.running else []
        _signal(family, number)
        return family

    async def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Ends it in good order, or kills it when that takes longer."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            self.resume()
        if not await self.ended(seconds=seconds):
            await asyncio.to_thread(self.kill)

    async def ended(self, *, seconds: float) -> bool:
        """Returns True when it has ended, or False when it still runs after that many seconds."""

        async def has_ended() -> bool:
            return not self.running

        return await until(has_ended, seconds=seconds)


class Processes:
    """The children of one stack, recorded in its state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self.logs = state.path / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._state = state
        self._children: dict[str, Child] = {}
        self._records: dict[str, Record] = {}

    @property
    def state(self) -> StateDirectory:
        """Where they are recorded."""
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
        """Starts a program in `directory`; what it prints goes to `logs/ROLE.log`. A role that ended may start again."""
        log = self.logs / f"{role}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  # programs of our own choice
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
        _let_go(process)
        return child

    async def stop(self, children: Sequence[Child]) -> None:
        """Ends some of them, all at the same time."""
        await asyncio.gather(*(child.stop() for child in children))
        for child in children:
            if self._children.get(child.role) is child:
                del self._children[child.role], self._records[child.role]
        self._save()

    async def stop_all(self) -> None:
        """Ends those that are left."""
        await self.stop(self.children())

    def kill_all(self) -> None:
        """Ends all at once."""
        for child in self.children():
            child.kill()

    def children(self) -> list[Child]:
        """Returns those that were started and not stopped."""
        return list(self._children.values())

    def lost(self) -> list[Child]:
        """Returns those that ended without having been stopped."""
        return [child for child in self.children() if not child.running]

    def _save(self) -> None:
        self._state.write(RECORDS, json.dumps([record._asdict() for record in self._records.values()], indent=1))


async def end_leftovers(state: StateDirectory) -> list[str]:
    """Ends what an earlier owner of the directory started and left running; returns the roles.

    A process is only touched when both its pid and its start time are the recorded ones.
    """
    left = [(record, process) for record in _recorded(state) if (process := _find(record)) is not None]
    families = [process for _, parent in left for process in _family(parent.pid)]
    for record, process in left:
        _signal([process], record.stop_signal)
    _signal(families, signal.SIGCONT)
    if not await until(lambda: _all_gone(process for _, process in left), seconds=STOP_SECONDS):
        _signal(families, signal.SIGKILL)
        await until(lambda: _all_gone(families), seconds=STOP_SECONDS)
    state.remove(RECORDS)
    return [record.role for record, _ in left]


def _recorded(state: StateDirectory) -> list[Record]:
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
    return process if same and not _gone(process) else None


def _family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; PostgreSQL's are in sessions of their own, so a signal to the group misses them."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _all_gone(processes: Iterable[psutil.Process]) -> bool:
    return all(_gone(process) for process in processes)


def _let_go(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is None:
        raise ValueError("the child has no pipe to wait on")
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(b"\n")
