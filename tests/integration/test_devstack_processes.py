"""Children are recorded, stopped and, after a kill -9 of their parent, found and ended: they and nobody else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cache_sidecar.devstack.processes import RECORDS, ChildFailed, Processes, end_leftovers
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.waiting import until

SLEEP = ["/bin/sleep", "600"]

_START_AND_DIE = """
import os, sys
from pathlib import Path
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
state = StateDirectory(Path(sys.argv[1]))
state.claim()
processes = Processes(state)
stubborn = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
for role, command in (("one", ["/bin/sleep", "600"]), ("two", ["/bin/sleep", "600"]), ("stubborn", stubborn)):
    child = processes.start(role, command, directory=state.path)
polite = ["/bin/sh", "-c", "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.05; done"]
paused = processes.start("paused", polite, directory=state.path)
while not (paused.log.read_text() == child.log.read_text() == "ready\\n"):
    pass
paused.pause()
os.kill(os.getpid(), 9)
"""

_DIE_BEFORE_RECORDING = """
import os, sys
from pathlib import Path
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
class Dying(StateDirectory):
    def write(self, name, text):
        os.kill(os.getpid(), 9)
Processes(Dying(Path(sys.argv[1]))).start("never", ["/bin/touch", sys.argv[2]], directory=Path(sys.argv[1]))
"""


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Processes]:
    """Processes of the test's own."""
    state = StateDirectory(tmp_path)
    state.claim()
    processes = Processes(state)
    yield processes
    await processes.stop_all()
    state.release()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(SLEEP) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_child_is_recorded_has_a_session_and_a_log_and_is_forgotten_when_stopped(own: Processes) -> None:
    child = own.start("talker", ["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 600"], directory=own.state.path)
    (record,) = json.loads((own.state.path / RECORDS).read_text())
    assert record["role"] == "talker"
    assert record["pid"] == child.pid
    assert record["create_time"] == pytest.approx(psutil.Process(child.pid).create_time())
    assert os.getsid(child.pid) == child.pid
    assert await until(_async(lambda: child.log.read_text() == "out\nerr\n"), seconds=10)
    assert own.find_dead() == []
    await own.stop([child])
    assert not _alive(child.pid)
    assert json.loads((own.state.path / RECORDS).read_text()) == []


async def test_a_child_that_ends_by_itself_is_lost_until_it_is_stopped(own: Processes) -> None:
    child = own.start("short", ["/bin/sh", "-c", "echo; echo bad news; echo; exit 3"], directory=own.state.path)
    assert await child.wait(seconds=10)
    assert own.find_dead() == [child]
    assert child.code == 3
    assert str(ChildFailed(child)) == f"short did not start: bad news (log: {child.log})"
    await own.stop([child])
    assert own.find_dead() == []


async def test_a_program_that_is_not_there_ends_with_a_line(own: Processes) -> None:
    child = own.start("missing", ["/nowhere/program"], directory=own.state.path)
    assert await child.wait(seconds=10)
    assert child.code == 127
    assert "/nowhere/program" in child.last_line()


async def test_a_child_without_a_log_still_has_a_last_line(own: Processes) -> None:
    child = own.start("silent", ["/bin/sh", "-c", "exit 5"], directory=own.state.path)
    assert await child.wait(seconds=10)
    assert child.last_line() == "exit code 5, and no log"


async def test_one_that_does_not_want_to_stop_is_killed_with_its_family(own: Processes) -> None:
    script = "trap '' TERM; sleep 600 & echo $!; while :; do wait; done"
    child = own.start("stubborn", ["/bin/sh", "-c", script], directory=own.state.path)
    assert await until(_async(lambda: bool(child.log.read_text())), seconds=10)
    grandchild = int(child.log.read_text())
    await child.stop(seconds=0.2)
    assert child.code == -signal.SIGKILL
    assert not _alive(grandchild)


async def test_a_paused_child_can_be_stopped(own: Processes) -> None:
    child = own.start("paused", SLEEP, directory=own.state.path)
    child.pause()
    assert child.running
    assert child.paused
    await own.stop([child])
    assert child.code == -signal.SIGTERM


async def test_kill_all_ends_everybody(own: Processes) -> None:
    children = [own.start(f"child-{number}", SLEEP, directory=own.state.path) for number in range(3)]
    own.kill_all()
    assert [child.code for child in children] == [-signal.SIGKILL] * 3
    children[0].kill()  # once more does no harm: its id may be somebody else's by now


async def test_what_a_kill_9_left_is_ended_and_only_that(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    _run(_START_AND_DIE, tmp_path)
    records = json.loads((tmp_path / RECORDS).read_text())
    assert [record["role"] for record in records] == ["one", "two", "stubborn", "paused"]
    assert all(_alive(record["pid"]) for record in records)
    # Its id, with the start time of a process that had this id before.
    reused = {**records[0], "pid": bystander.pid, "create_time": psutil.Process(bystander.pid).create_time() - 60}
    gone = {**records[0], "pid": 2**22 + 1}
    (tmp_path / RECORDS).write_text(json.dumps([*records, reused, gone]))
    state = StateDirectory(tmp_path)
    state.claim()
    assert await end_leftovers(state) == ["one", "two", "stubborn", "paused"]
    assert not any(_alive(record["pid"]) for record in records)
    assert (tmp_path / "logs" / "paused.log").read_text() == "ready\nbye\n"
    assert bystander.poll() is None
    assert not (tmp_path / RECORDS).exists()
    assert await end_leftovers(state) == []
    state.release()


@pytest.mark.parametrize("broken", ["", "{", "[1]", '[{"role": "x"}]', '{"a": 1}'])
async def test_records_that_cannot_be_read_are_no_records(tmp_path: Path, broken: str) -> None:
    (tmp_path / RECORDS).write_text(broken)
    assert await end_leftovers(StateDirectory(tmp_path)) == []


async def test_a_child_whose_parent_died_before_recording_it_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    _run(_DIE_BEFORE_RECORDING, tmp_path, marker)

    def nobody_waits() -> bool:
        return not any(str(marker) in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))

    assert await until(_async(nobody_waits), seconds=10)
    assert not marker.exists()


def _run(script: str, *arguments: object) -> None:
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _async(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return condition()

    return ask
