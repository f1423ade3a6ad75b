"""What every write shares: the request's key, a task of its own, the bound on replies, and publishing to the caches."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from cache_sidecar.core.errors import DeadlineExceeded
from cache_sidecar.core.tasks import BackgroundTasks, log_failure
from cache_sidecar.services.fingerprint import fingerprint
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.store.database import Database
from cache_sidecar.store.requests import RequestKey
from cache_sidecar.store.writes import Transaction, Write, WriteResult
from cache_sidecar.tiers.path.dataset import Dataset

T = TypeVar("T")
Publish = Callable[[WriteResult[T]], Awaitable[bool]]
"""Publishes what was committed, or was at the first execution of a repeat; returns whether Redis has it."""


class Mutation(Protocol):
    """A request that changes something."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Returns the bytes of the message."""
        ...


class Writer:
    """Writes through: PostgreSQL commits, then the caches are updated, then the caller gets the reply."""

    def __init__(self, database: Database, *, bound: Bound) -> None:
        """Nothing is written that exceeds `bound`: it could not be read."""
        self._database = database
        self._bound = bound
        self._writes = BackgroundTasks()

    async def write(self, dataset: Dataset, request: Mutation, write: Write[T], *, optimistic: bool = False) -> bytes:
        """Runs a write, see `run`, publishes its entries to a dataset, and returns the serialized reply."""
        return (await self.run(request, write, partial(publish, dataset), optimistic=optimistic)).reply

    async def run(
        self, request: Mutation | None, write: Write[T], publish: Publish[T], *, optimistic: bool = False
    ) -> WriteResult[T]:
        """Runs a write, see `Database.write`, then publishes its result, or that of the first execution of a repeat.

        Without a request, nothing is a repeat.

        A caller who leaves does not interrupt a write that has begun: what is committed must reach the caches. A write that
        still waits for a connection is not begun for a caller who left.
        """
        has_left = False

        async def begin(tx: Transaction) -> WriteResult[T]:
            if has_left:
                raise DeadlineExceeded
            result = await write(tx)
            self._bound.check_result(result)  # before the commit: what is raised here rolls the transaction back
            return result

        async def write_and_publish() -> WriteResult[T]:
            key = None if request is None else key_of(request)
            result = await self._database.write(key, begin, optimistic=optimistic)
            return result._replace(is_published=await publish(result))

        task = self._writes.spawn(write_and_publish(), log_failures=False)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            has_left = True
            task.add_done_callback(log_failure)
            raise

    async def close(self) -> None:
        """Waits for the writes in progress."""
        await self._writes.join()


async def publish(dataset: Dataset, result: WriteResult[Any]) -> bool:
    """Publishes the entries of a write to a dataset; returns whether Redis has them."""
    if result.is_repeat:
        # The sidecar that executed the request may have died before the caches had its changes.
        return await dataset.publish(result.versions)
    return await dataset.publish({id: dataset.record(version, entry) for id, version, entry in result.changes})


def key_of(request: Mutation) -> RequestKey | None:
    """Returns what identifies a request in the ledger; None without a request_id, when each repeat is a new request."""
    if not request.request_id:
        return None
    # RFC 9562: upper and lower case are the same UUID, and so the same request.
    request.request_id = request.request_id.lower()
    return RequestKey(_scope(request), request.request_id, type(request).__name__, fingerprint(request))


def _scope(request: Any) -> str:
    """Returns whose request_id it is, so that those of different owners cannot collide.

    The owner is the user that a request names, the session or reservation that it is about, or, before a login, the client of a
    session. The catalogue and its inventory belong to the shop, which is one scope.
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
