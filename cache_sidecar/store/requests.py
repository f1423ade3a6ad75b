"""The ledger of requests: the first reply to each request_id, so that a repeat gets the same one."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from cache_sidecar.core.errors import RequestIdReused
from cache_sidecar.store.connection import Executor

# Seconds for which a repeat of a request gets its first reply; after that the relay deletes it.
KEPT = 86_400.0
VERSION_DIGITS = 16


class RequestKey(NamedTuple):
    """Identifies a request that may be repeated."""

    scope: str
    "What else has to be the same for a request_id to be the same one."
    request_id: str
    method: str
    fingerprint: bytes
    "Differs when the request differs."


class FirstReply(NamedTuple):
    """What a request led to when it was executed."""

    reply: bytes
    versions: Mapping[str, int]
    "The ids it changed, with their new versions."


class VersionedReply(NamedTuple):
    """A reply that ends with the version that its write makes, in VERSION_DIGITS hexadecimal digits: complete but for these.

    PostgreSQL draws the version in the statement that also writes the reply to the ledger, so the statement completes the
    ledger's copy (`insert_with`), and `complete` the caller's. A second statement would cost a transaction and a round trip.
    """

    head: bytes

    def complete(self, version: int) -> bytes:
        """Returns the reply with its version."""
        return self.head + f"{version:0{VERSION_DIGITS}x}".encode()


# `VersionedReply.complete` in SQL.
_COMPLETE = f"%s || convert_to(lpad(to_hex(version), {VERSION_DIGITS}, '0'), 'UTF8')"


async def first_reply(connection: Executor, key: RequestKey) -> FirstReply | None:
    """Returns what the request led to before, or None. Raises RequestIdReused when it was another request."""
    cursor = await connection.execute(
        """SELECT method, fingerprint, reply, ids, versions FROM cache_sidecar.requests
           WHERE scope = %s AND request_id = %s""",
        [key.scope, key.request_id],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    method, fingerprint, reply, ids, versions = row
    if (method, fingerprint) != (key.method, key.fingerprint):
        raise RequestIdReused(key.request_id)
    return FirstReply(reply, dict(zip(ids, versions, strict=True)))


async def insert(connection: Executor, key: RequestKey, first: FirstReply) -> None:
    """Writes the reply, in the transaction of the write itself. Raises UniqueViolation when the request is a repeat."""
    await connection.execute(
        """INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        [*key, first.reply, list(first.versions), list(first.versions.values())],
    )


@cache
def insert_with(write: str) -> str:
    """Returns a statement that does `write`, which changes at most one row and returns id and version, and inserts its reply.

    Its parameters are those of `write`, then the key's, then the head of a VersionedReply. It returns the version; where
    `write` changes no row, nothing is inserted and no row returned.
    """
    return f"""WITH written AS ({write}),
        answered AS (
            INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
            SELECT %s, %s, %s, %s, {_COMPLETE}, ARRAY[id], ARRAY[version] FROM written)
        SELECT version FROM written"""


async def lock_reply(connection: Executor, key: RequestKey) -> bytes:
    """Returns a reply that is in the ledger, and locks it until the end of the transaction."""
    cursor = await connection.execute(
        "SELECT reply FROM cache_sidecar.requests WHERE scope = %s AND request_id = %s FOR UPDATE", [key.scope, key.request_id]
    )
    row = await cursor.fetchone()
    assert row is not None, "it was there a moment ago, and is kept for a day"
    return bytes(row[0])


async def replace(connection: Executor, key: RequestKey, first: FirstReply) -> None:
    """Overwrites a reply in the ledger: for replies that must not be given twice."""
    await connection.execute(
        "UPDATE cache_sidecar.requests SET reply = %s, ids = %s, versions = %s WHERE scope = %s AND request_id = %s",
        [first.reply, list(first.versions), list(first.versions.values()), key.scope, key.request_id],
    )
