"""A server that speaks MongoDB's protocol, mongo-java-server, and the copy of user events in it.

It stores, finds, deletes and aggregates as MongoDB does, which is what these tests rest on. What it cannot prove, as it has none
of it: write concerns and elections (it is one server, and calls nothing a majority), retries by the driver, authentication, TLS,
deletion by age (it ignores `expireAfterSeconds`), `collMod`, and how fast MongoDB is. It keeps everything in memory: killed, it
comes back empty, as another MongoDB would be.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo.errors import OperationFailure

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.processes import Child, Processes
from cache_sidecar.mongodb.database import EVENTS, Document, open_database
from cache_sidecar.mongodb.events import EventCopy
from cache_sidecar.relay import event_copy
from cache_sidecar.relay.event_copy import EventCopier
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.user_event import UserEventStore
from tests.support.databases import open_database as open_postgres
from tests.support.until import until


class MongoServer:
    """The server on 127.0.0.1."""

    def __init__(self, processes: Processes, program: Path, port: int) -> None:
        """`program` is the folder with its jars."""
        self.address = f"127.0.0.1:{port}"
        self._processes = processes
        self._program = program
        self._port = port
        self._child: Child | None = None

    async def start(self) -> None:
        """Starts it, empty."""
        command = ["java", "-Xmx256m", "-cp", ".:*", "Server", str(self._port)]
        self._child = self._processes.start("mongodb", command, directory=self._program)
        await until(self._is_listening)

    def kill(self) -> None:
        """Kills it, with everything that it has."""
        assert self._child is not None
        self._child.kill()

    async def stop(self) -> None:
        """Stops it."""
        assert self._child is not None
        await self._processes.stop([self._child])

    async def _is_listening(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.close()
            return True
        return False


@contextlib.asynccontextmanager
async def copying(settings: Settings, *, dependencies: Dependencies | None = None) -> AsyncIterator[None]:
    """Copies events from PostgreSQL, as a relay does."""
    found = dependencies or Dependencies(is_logged=False)
    async with open_postgres(settings.database("analytics")) as postgres, open_database(settings, patience=5.0) as mongodb:
        task = asyncio.create_task(
            copier_of(settings, UserEventStore(postgres), EventCopy(mongodb), found).run(leadership_of(settings))
        )
        try:
            yield
        finally:
            await cancel_and_wait(task)


def copier_of(settings: Settings, events: UserEventStore, copy: EventCopy, dependencies: Dependencies) -> EventCopier:
    """Returns the part of a relay that copies events."""
    retention = timedelta(days=settings.event_retention)
    return EventCopier(copy, events, retention=retention, dependency=dependencies.of("mongodb"))


def leadership_of(settings: Settings) -> Leadership:
    """Returns a candidate for the lead of that part."""
    return Leadership(settings.database("analytics"), region=event_copy.EVERYWHERE, job=event_copy.JOB, channel="")


async def record(settings: Settings, *lines: str) -> None:
    """Writes events, JSON objects, to PostgreSQL."""
    async with open_postgres(settings.database("analytics")) as postgres:
        await UserEventStore(postgres).add(lines, kept_after=datetime.fromtimestamp(0, UTC))


async def documents(settings: Settings, **wanted: Any) -> list[Document]:
    """Returns the documents of the copy, by time."""
    found: list[Document] = []

    async def could_be_read() -> bool:
        # The server fails to read a collection that is just being made, or written to, with `Unknown error: null`.
        with contextlib.suppress(OperationFailure):
            found[:] = await mongodb[EVENTS].find(wanted).to_list()
            return True
        return False

    async with open_database(settings, patience=5.0) as mongodb:
        await until(could_be_read)
    return sorted(found, key=lambda document: document["event_time"])


async def ids(settings: Settings, **wanted: Any) -> list[str]:
    """Returns their event_ids."""
    return [str(document["_id"]) for document in await documents(settings, **wanted)]
