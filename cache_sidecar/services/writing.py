"""What every write shares: the ledger, the transaction, and taking what was committed to the caches."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Protocol

from cache_sidecar.store.pool import Connection, Database, Written
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.tiers.dataset import Dataset

Work = Callable[[Connection], Awaitable[Written]]


class Mutation(Protocol):
    """A request that changes something."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Returns the bytes of the message."""
        ...


class Writer:
    """Writes through: PostgreSQL commits, then the caches hear of it, then the caller."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: set[asyncio.Task[bytes]] = set()

    async def write(self, dataset: Dataset, request: Mutation, work: Work) -> bytes:
        """Runs `work` in a transaction and returns the serialized reply: the first one, if the request is a repeat."""
        task = asyncio.get_running_loop().create_task(self._write(dataset, _key(request), work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # A caller that leaves must not tear the write apart: what is committed has to reach the caches.
        return await asyncio.shield(task)

    async def _write(self, dataset: Dataset, key: RequestKey | None, work: Work) -> bytes:
        written = await self._database.write(key, work)
        if written.version:
            await dataset.committed(written.id, written.version, written.entry)
        return written.reply

    async def close(self) -> None:
        """Waits for the writes in progress."""
        await asyncio.gather(*self._running, return_exceptions=True)


def _key(request: Mutation) -> RequestKey | None:
    if not request.request_id:
        return None
    content = request.SerializeToString(deterministic=True)
    return RequestKey(request.request_id, type(request).__name__, sha256(content).digest())
