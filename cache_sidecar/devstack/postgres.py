"""A PostgreSQL server with its data in a directory."""

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.accounts import Account, make_traversable, server_account
from cache_sidecar.devstack.processes import Child, ChildFailed, Processes
from cache_sidecar.devstack.state import LONGEST_SOCKET_PATH, write_private
from cache_sidecar.devstack.waiting import until
from cache_sidecar.devstack.wheels import postgres_programs

HOST = "127.0.0.1"
DATABASE = "shop"
SUPERUSER = "postgres"
_NO_SETTINGS: Mapping[str, str] = {}
# Crash recovery may take long on a slow disk.
_READY_SECONDS = 60.0


class Postgres:
    """A server on 127.0.0.1 and, if the path is short enough, on a Unix socket in `directory/run`.

    `directory` contains `data`, `run`, the superuser's `password`, and those of other roles. `processes` determines the path of
    the log.
    """

    def __init__(
        self,
        processes: Processes,
        directory: Path,
        port: int,
        *,
        version: int = 18,
        settings: Mapping[str, str] = _NO_SETTINGS,
        role: str = "postgres",
    ) -> None:
        """`settings` are those of postgresql.conf, such as `{"log_statement": "all"}`."""
        if not 0 < port <= 65535:
            raise ValueError(f"port {port} is not between 1 and 65535")
        self.port = port
        self.directory = directory
        self.opened: list[Path] = []
        "Directories that were made traversable, because a server started by root runs as another user."
        self._processes = processes
        self._version = version
        self._settings = settings
        self._role = role
        self._data = directory / "data"
        self._run = directory / "run"
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The main process. Raises ValueError before the first start."""
        if self._child is None:
            raise ValueError(f"PostgreSQL in {self.directory} was never started")
        return self._child

    @property
    def pid(self) -> int:
        """The process ID of the main process."""
        return self.child.pid

    def dsn(self, database: str = DATABASE) -> str:
        """Returns the URI of a database, with the superuser and the password."""
        password = (self.directory / "password").read_text()
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{self.port}/{database}"

    def dsn_of(self, role: str) -> str:
        """Returns the URI of the database `shop` for a role, without its password."""
        return f"postgresql://{role}@{HOST}:{self.port}/{DATABASE}"

    async def create_role(self, role: str) -> Path:
        """Creates a role that may log in and nothing else, with a new password. Returns the file with the password."""
        file, password = self.directory / f"password-of-{role}", secrets.token_urlsafe(24)
        write_private(file, password)
        async with await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            statement = "CREATE ROLE {} LOGIN PASSWORD {}" if await found.fetchone() is None else "ALTER ROLE {} PASSWORD {}"
            await connection.execute(sql.SQL(statement).format(sql.Identifier(role), password))
        return file

    async def start(self) -> None:
        """Starts the server, initialising the data if there is none. Returns when the database `shop` answers.

        Raises ChildFailed with the last line of its log, and InputError for data of another version or another server.
        """
        account = await self._prepare()
        self._remove_stale_locks()
        self._child = self._start(self._role, self._command(), account)
        if not await until(self._answers, seconds=_READY_SECONDS):
            raise ChildFailed(self._child)
        await self._create_database()

    async def stop(self) -> None:
        """Shuts the server down cleanly, closing its connections."""
        await self._processes.stop([self.child])

    async def restart(self) -> None:
        """Restarts the server on the same port."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """Kills all its processes (SIGKILL), like a crash of the machine."""
        self.child.kill()

    def pause(self) -> None:
        """Suspends all its processes (SIGSTOP)."""
        self.child.pause()

    def resume(self) -> None:
        """Resumes a paused server."""
        self.child.resume()

    async def _prepare(self) -> Account | None:
        programs = postgres_programs(self._version)
        self.directory.mkdir(parents=True, exist_ok=True)
        account = server_account(self.directory)
        self._run.mkdir(mode=0o755, exist_ok=True)
        if account is not None:
            account.chown(self._run)
            self.opened = [*make_traversable(self.directory), *make_traversable(programs)]
        found = self._data / "PG_VERSION"
        if not found.exists():
            await self._initialise(programs, account)
        elif found.read_text().strip() != str(self._version):
            raise InputError(
                f"{self._data} was created by PostgreSQL {found.read_text().strip()}, not {self._version}: "
                "remove it, or choose another state directory"
            )
        return account

    async def _initialise(self, programs: Path, account: Account | None) -> None:
        """Initialises the data in another directory and renames it, so that a killed start leaves no incomplete data."""
        new, password = self.directory / "data.new", self.directory / "password"
        shutil.rmtree(new, ignore_errors=True)
        write_private(password, secrets.token_urlsafe(24))
        if account is not None:
            account.chown(password)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", "--no-sync"]
        command = [programs / "initdb", "-D", new, "-U", SUPERUSER, f"--pwfile={password}", *options]
        child = self._start(f"{self._role}-initdb", [str(part) for part in command], account)
        await child.wait(seconds=_READY_SECONDS)
        if child.code != 0:
            raise ChildFailed(child)
        await self._processes.stop([child])
        new.rename(self._data)

    def _start(self, role: str, command: list[str], account: Account | None) -> Child:
        return self._processes.start(
            role,
            command,
            directory=self.directory,
            environment=_environment(),
            account=account,
            stop_signal=signal.SIGINT,
        )

    def _command(self) -> list[str]:
        short = len(os.fsencode(self._run / ".s.PGSQL.65535")) <= LONGEST_SOCKET_PATH
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self._run).replace(",", "") if short else "",
            **self._settings,
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        return [str(postgres_programs(self._version) / "postgres"), "-D", str(self._data), *options]

    def _remove_stale_locks(self) -> None:
        """Removes the lock of the socket, and postmaster.pid unless its process runs in the data directory.

        PostgreSQL itself only checks whether a process with that ID exists, and refuses to start if the ID was reused.
        """
        lock = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(lock.read_text().split("\n", 1)[0])
            if _runs_in(pid, self._data):
                raise InputError(f"a PostgreSQL that was not started here (pid {pid}) uses {self._data}: stop it first")
        for file in (lock, *self._run.iterdir()):
            file.unlink(missing_ok=True)

    async def _answers(self) -> bool:
        if not self.child.running:
            raise ChildFailed(self.child)
        try:
            connection = await psycopg.AsyncConnection.connect(self.dsn("postgres"), connect_timeout=2)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    async def _create_database(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if await found.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _runs_in(pid: int, data: Path) -> bool:
    try:
        return Path(psutil.Process(pid).cwd()) == data.resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        # A process that we may not inspect belongs to another user, and the data is ours.
        return False


def _environment() -> dict[str, str]:
    """Our environment without variables that would configure PostgreSQL; messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}
