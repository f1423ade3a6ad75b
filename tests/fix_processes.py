"""Fixtures that start servers: where their processes run, and the ports they get."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.processes import RECORDS, Processes, end_leftovers
from cache_sidecar.devstack.state import StateDirectory
from tests.support.free_ports import ChoosePorts, later_ports

_PREFIX = "cache-sidecar-tests-"


@pytest.fixture(scope="session")
async def processes() -> AsyncIterator[Processes]:
    """Starts servers. All of them end with the session, or when the next session starts if this one is killed."""
    await _clear_killed_sessions()
    state = StateDirectory(Path(tempfile.mkdtemp(prefix=_PREFIX)))
    # As root, PostgreSQL runs as another user, who has to get through.
    state.path.chmod(0o711)
    state.claim()
    running = Processes(state)
    yield running
    await running.stop_all()
    _discard(state)


@pytest.fixture(scope="session")
def choose_ports() -> ChoosePorts:
    """Returns free ports for servers that start later."""
    return later_ports


async def _clear_killed_sessions() -> None:
    for directory in _earlier_sessions():
        state = StateDirectory(directory)
        try:
            state.claim()
        except InputError:
            continue  # that session is still running
        await end_leftovers(state)
        _discard(state)


def _discard(state: StateDirectory) -> None:
    """Removes the folder while this session still holds it: another session may be looking for leftovers of killed ones."""
    state.remove(RECORDS)
    shutil.rmtree(state.path, ignore_errors=True)
    state.release()


def _earlier_sessions() -> list[Path]:
    found = []
    for records in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{RECORDS}"):
        # Sessions that start together find the same folders: another may have removed this one since the glob saw it.
        with contextlib.suppress(FileNotFoundError):
            if records.stat().st_uid == os.geteuid():
                found.append(records.parent)
    return found
