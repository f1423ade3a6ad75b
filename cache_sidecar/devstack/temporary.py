"""PostgreSQL and Valkey servers for one command, which end with it."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.ports import Ports
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import RECORDS, Processes, end_leftovers
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.devstack.waiting import together

_PREFIX = "cache-sidecar-temporary-"
_VERSION = 18


@asynccontextmanager
async def temporary_servers() -> AsyncIterator[tuple[str, str]]:
    """Starts a PostgreSQL with an empty database and a Valkey, and returns the DSN and the address.

    Raises InputError if a wheel with a server is not installed, and ChildFailed if a server does not start.
    """
    async with temporary_processes() as (processes, ports):
        port, valkey_port = ports.choose([0, 0])
        directory = processes.state.path
        # What is in it is not needed after a crash.
        server = Postgres(processes, directory / "postgres", port, version=_VERSION, settings={"fsync": "off"})
        valkey = ValkeyServer(processes, directory / "valkey", valkey_port)
        await together(server.start(), valkey.start())
        yield server.dsn(), valkey.address


@asynccontextmanager
async def temporary_processes() -> AsyncIterator[tuple[Processes, Ports]]:
    """Runs servers in a directory of their own; stops them and removes it at the end.

    Removes what killed commands left behind.
    """
    await _remove_leftovers()
    state = StateDirectory(Path(tempfile.mkdtemp(prefix=_PREFIX)))
    # Started by root, PostgreSQL runs as another user, who has to get through.
    state.path.chmod(0o711)
    state.claim()
    processes, ports = Processes(state), Ports()
    try:
        yield processes, ports
    finally:
        await processes.stop_all()
        ports.close()
        _remove(state)


async def _remove_leftovers() -> None:
    for directory in _earlier_directories():
        state = StateDirectory(directory)
        try:
            state.claim()
        except InputError:
            continue  # its command is still running, or it is another user's
        await end_leftovers(state)
        _remove(state)


def _earlier_directories() -> list[Path]:
    return [records.parent for records in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{RECORDS}")]


def _remove(state: StateDirectory) -> None:
    # First the records, while the directory is locked: another command may be looking for leftovers.
    state.remove(RECORDS)
    shutil.rmtree(state.path, ignore_errors=True)
    state.release()
