"""The servers of a run outside of pytest, in a directory of its own."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.store.migrate import migrate
from tests.support.free_ports import later_ports


@dataclass(frozen=True, kw_only=True)
class Servers:
    """What runs."""

    processes: Processes
    cluster: ValkeyCluster
    postgres: Postgres


@asynccontextmanager
async def servers(*, keep: bool = False) -> AsyncIterator[Servers]:
    """Runs a Redis Cluster and a migrated PostgreSQL, and ends them and all else that `processes` runs; may keep the logs."""
    state = StateDirectory(Path(tempfile.mkdtemp(prefix="cache-sidecar-consistency-")))
    state.path.chmod(0o711)  # as root, PostgreSQL runs as another user, who has to get through
    state.claim()
    processes = Processes(state)
    try:
        cluster = ValkeyCluster(processes, state.path / "valkey", later_ports(6))
        # Nothing kills the machine, so nothing has to survive that.
        settings = {"fsync": "off", "max_connections": "200"}
        postgres = Postgres(processes, state.path / "postgres", later_ports(1)[0], settings=settings)
        await asyncio.gather(cluster.start(), postgres.start())
        for role in ROLES:
            await migrate(postgres.dsn(), role)
        yield Servers(processes=processes, cluster=cluster, postgres=postgres)
    finally:
        await processes.stop_all()
        state.release()
        if not keep:
            shutil.rmtree(state.path, ignore_errors=True)
