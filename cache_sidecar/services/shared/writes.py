"""What every write shares: the ledger, the transaction, and taking what was committed to the caches."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Protocol

from cache_sidecar.core.errors import DeadlineExceeded
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.services.fingerprint import fingerprint
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.store.pool import AtOnce, Connection, Database, Work, WriteResult
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.tiers.path.dataset import Dataset

Tell = Callable[[WriteResult], Awaitable[None]]


class Mutation(Protocol):
    """A request that changes something."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Returns the bytes of the message."""
        ...


class Writer:
    """Writes through: PostgreSQL commits, then the caches hear of it, then the caller."""

    def __init__(self, database: Database, *, bound: Bound) -> None:
        """Nothing is written that `bound` would not let anybody read."""
        self._database = database
        self._bound = bound
        self._running: set[asyncio.Task[WriteResult]] = set()

    async def write(self, dataset: Dataset, request: Mutation, work: Work, at_once: AtOnce | None = None) -> bytes:
        """Does `work`, see `Database.write`, and returns the serialized reply: the first one, if the request is a repeat."""

        async def tell(written: WriteResult) -> None:
            if written.repeated:
                # Whoever did it may have died before Redis, or this sidecar, heard of it.
                await dataset.told({change.id: change.version for change in written.changes})
            else:
                await dataset.told({id: dataset.record(version, entry) for id, version, entry in written.changes})

        return (await self.run(request, work, tell, at_once)).reply

    async def run(self, request: Mutation | None, work: Work, tell: Tell, at_once: AtOnce | None = None) -> WriteResult:
        """Does `work`, then `tell` with what it wrote, or with what it wrote the first time.

        Without a request, nothing is a repeat.
        """
        is_wanted = True

        async def wanted_work(connection: Connection) -> WriteResult:
            if not is_wanted:
                raise DeadlineExceeded
            written = await work(connection)
            self._bound.check_written(written)  # what is raised here rolls the transaction back
            return written

        async def wanted_at_once(connection: Connection, key: RequestKey) -> WriteResult | None:
            return await at_once(connection, key) if at_once is not None and is_wanted else None

        key = None if request is None else key_of(request)
        attempt = self._run(key, wanted_work, tell, None if at_once is None else wanted_at_once)
        task = asyncio.get_running_loop().create_task(attempt)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            # A caller that leaves must not tear the write apart: what is committed has to reach the caches.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            is_wanted = False  # what stands in line is not begun any more
            task.add_done_callback(log_failure)
            raise

    async def _run(self, key: RequestKey | None, work: Work, tell: Tell, at_once: AtOnce | None) -> WriteResult:
        written = await self._database.write(key, work, at_once)
        await tell(written)
        return written

    async def close(self) -> None:
        """Waits for the writes in progress."""
        await asyncio.gather(*self._running, return_exceptions=True)


def key_of(request: Mutation) -> RequestKey | None:
    """Returns what a request is remembered by; None when it has no request_id, and each repeat is a request of its own."""
    if not request.request_id:
        return None
    # RFC 9562: upper and lower case are one UUID, and so one request.
    request.request_id = request.request_id.lower()
    return RequestKey(_scope(request), request.request_id, type(request).__name__, fingerprint(request))


def _scope(request: Any) -> str:
    """Returns whose request_id it is, so that nobody's can collide with another's.

    That is the user a request names, the session or reservation that it is about, or the client of a session before a login.
    The catalogue and its stock are nobody's: the shop writes them, which is one scope.
    """
    for whose in (request, getattr(request, "cart", None)):
        if user_id := getattr(whose, "user_id", ""):
            return f"user {user_id}"
    for which in (request, getattr(request, "session", None)):
        if session_id := getattr(which, "session_id", ""):
            return f"session {sha256(session_id.encode()).hexdigest()}"
    if reservation_id := getattr(request, "reservation_id", ""):
        return f"reservation {reservation_id.lower()}"
    if (client := getattr(request, "client", None)) is not None:
        return f"client {sha256(client.SerializeToString(deterministic=True)).hexdigest()}"
    return "shop"
