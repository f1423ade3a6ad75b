"""A standby of a PostgreSQL: a replica, read-only until it is promoted."""

import asyncio
import os
import shutil
from pathlib import Path

from cache_sidecar.devstack.accounts import make_traversable, server_account
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.wheels import postgres_programs


async def standby_of(primary: Postgres, processes: Processes, directory: Path, port: int) -> Postgres:
    """Starts one on data of its own below `directory`."""
    directory.mkdir()
    account = server_account(directory)
    if account is not None:
        account.chown(directory)
        make_traversable(directory)
    program = postgres_programs(18) / "pg_basebackup"
    command = [
        program,
        "--write-recovery-conf",
        "--checkpoint=fast",
        f"--dbname={primary.dsn('postgres')}",
        "-D",
        directory / "data",
    ]
    copy = processes.start(
        "pg_basebackup", [str(part) for part in command], directory=directory, environment=dict(os.environ), account=account
    )
    assert await copy.wait(seconds=60)
    assert copy.code == 0, copy.last_line()
    await processes.stop([copy])
    password = await asyncio.to_thread(shutil.copy, primary.directory / "password", directory / "password")
    if account is not None:
        account.chown(Path(password))
    standby = Postgres(processes, directory, port, settings={"fsync": "off"}, role="postgres-standby")
    await standby.start()
    return standby
