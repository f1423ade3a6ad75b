"""One write: a function that reads, decides and saves in a transaction, and the ledger's row for its request_id.

The function is passed down once, as with CockroachDB's `run_transaction`, and everything inside it reads downward: lock the
row, apply the rule, save, return the reply. It is not a context manager, because it may have to run again: after a deadlock,
on a newer connection, or with locks after an attempt without them. A `with` block runs once, in the task of a caller who may
leave in the middle of it.

So the function must have no effect but through its transaction.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from cache_sidecar.store import requests
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.requests import FirstReply, RequestKey, VersionedReply

T = TypeVar("T")


class RowChange(NamedTuple):
    """One id that a write changed."""

    id: str
    version: int
    entry: bytes | None = None
    "What caches keep of the id from now on; None when it is deleted."


class WriteResult(NamedTuple, Generic[T]):
    """What a write did."""

    reply: bytes
    "The serialized reply; it goes into the ledger."
    changes: Sequence[RowChange] = ()
    "Every id that it changed."
    value: T | None = None
    "Whatever else the caller needs of it; None for a repeat."
    is_repeat: bool = False
    "Whether the request was executed before: then `reply` is the first one, and the entries of `changes` are not known."
    is_published: bool = False
    "Whether Redis has the changes; if not, the relay will publish them."

    @property
    def versions(self) -> dict[str, int]:
        """The new version of each id that it changed."""
        return {change.id: change.version for change in self.changes}


class RowMoved(Exception):  # caught here: the write is attempted again, with locks
    """A row changed between the statement that read it and the one that saves it."""


class Transaction:
    """What a write's function executes its statements in."""

    def __init__(self, connection: Connection, key: RequestKey | None, *, is_optimistic: bool) -> None:
        self.execute = connection.execute
        "Executes one statement."
        self._key = key
        self.is_optimistic = is_optimistic
        """Whether statements commit one by one. Then rows are read without a lock, and what is saved must be saved by one
        statement, by `save`, and only if the row still has the version that was read."""
        self.is_answered = False
        "Whether the ledger has the reply."

    async def save(self, write: str, values: Sequence[Any], reply: VersionedReply | None = None) -> int:
        """Executes a statement that writes one row and returns its id and version; returns the version.

        The ledger's row is written by the same statement if there is a reply, and a request_id. Raises RowMoved when the
        statement found no row to write.
        """
        is_answer = False
        if reply is not None and self._key is not None:
            write, values, is_answer = requests.insert_with(write), [*values, *self._key, reply.head], True
        cursor = await self.execute(write, values)
        row = await cursor.fetchone()
        if row is None:
            raise RowMoved
        self.is_answered = is_answer
        return int(row[-1])


Write = Callable[[Transaction], Awaitable[WriteResult[T]]]


async def run(connection: Connection, key: RequestKey | None, write: Write[T], *, optimistic: bool) -> WriteResult[T]:
    """Runs a write, and returns its result once it is committed with the ledger's row. Raises UniqueViolation for a repeat.

    An `optimistic` one with a key is first attempted without locks and without a transaction, which is half of the statements.
    Two writes of one row that are attempted so at once:

        A reads version 1 -> B reads version 1 -> A saves where the version is 1: now 2 -> B saves where it is 1: no row

    Without the comparison B would undo A's change. Now it starts again, with a lock. So does an attempt that finds nothing to
    save: its reply still has to be written to the ledger, and without a lock the row might change before.
    """
    if optimistic and key is not None:
        async with connection.each():
            transaction = Transaction(connection, key, is_optimistic=True)
            try:
                result = await write(transaction)
                if transaction.is_answered:
                    return result
            except RowMoved:
                pass
    while True:
        try:
            async with connection.begin():
                transaction = Transaction(connection, key, is_optimistic=False)
                result = await write(transaction)
                if key is not None and not transaction.is_answered:
                    await requests.insert(connection, key, FirstReply(result.reply, result.versions))
                return result
        except RowMoved:
            # There was no row to lock, and another transaction has inserted it meanwhile. That one is locked next.
            pass


async def find_repeat(connection: Connection, key: RequestKey) -> WriteResult[Any] | None:
    """Returns the first result of a request that was executed before, else None. Raises RequestIdReused."""
    async with connection.each():
        first = await requests.first_reply(connection, key)
    if first is None:
        return None
    changes = [RowChange(id, version) for id, version in first.versions.items()]
    return WriteResult(first.reply, changes, is_repeat=True)
