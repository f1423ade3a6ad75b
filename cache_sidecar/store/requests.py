"""The ledger of requests: the first reply to each request_id, so that a repeat gets it once more."""

from collections.abc import Mapping
from typing import NamedTuple

from cache_sidecar.core.errors import RequestIdReused
from cache_sidecar.store.connection import Connection

# Seconds for which a repeat of a request gets its first reply; after that the relay deletes it.
KEPT = 86_400.0


class RequestKey(NamedTuple):
    """Identifies a request that may be repeated."""

    scope: str
    "What else has to be the same for a request_id to be the same one."
    request_id: str
    method: str
    fingerprint: bytes
    "Differs when the request differs."


class FirstReply(NamedTuple):
    """What a request led to when it was done."""

    reply: bytes
    versions: Mapping[str, int]
    "The ids it changed, each with the version that made."


async def first_reply(connection: Connection, key: RequestKey) -> FirstReply | None:
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


async def remember(connection: Connection, key: RequestKey, first: FirstReply) -> None:
    """Writes the reply, in the transaction that does the work. Raises UniqueViolation when the request was done before."""
    await connection.execute(
        """INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        [*key, first.reply, list(first.versions), list(first.versions.values())],
    )


def remembered(write: str) -> str:
    """Returns a statement that does `write`, which changes at most one row and returns id and version, and remembers that.

    Its parameters are those of `write`, then the key's, then the reply but for its end: that is the version in 16
    hexadecimal digits. It returns the version, and remembers nothing where `write` returns nothing.
    """
    return f"""WITH written AS ({write}),
        remembered AS (
            INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
            SELECT %s, %s, %s, %s, %s || convert_to(lpad(to_hex(version), 16, '0'), 'UTF8'), ARRAY[id], ARRAY[version]
            FROM written)
        SELECT version FROM written"""


async def locked_reply(connection: Connection, key: RequestKey) -> bytes:
    """Returns a reply that is in the ledger, and locks it until the end of the transaction."""
    cursor = await connection.execute(
        "SELECT reply FROM cache_sidecar.requests WHERE scope = %s AND request_id = %s FOR UPDATE", [key.scope, key.request_id]
    )
    row = await cursor.fetchone()
    assert row is not None, "it was there a moment ago, and is kept for a day"
    return bytes(row[0])


async def replace(connection: Connection, key: RequestKey, first: FirstReply) -> None:
    """Writes another reply over one that is in the ledger: for replies that must not be given twice."""
    await connection.execute(
        "UPDATE cache_sidecar.requests SET reply = %s, ids = %s, versions = %s WHERE scope = %s AND request_id = %s",
        [first.reply, list(first.versions), list(first.versions.values()), key.scope, key.request_id],
    )
