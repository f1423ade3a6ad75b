"""The ledger of requests: the first reply to each request_id, so that a repeat gets it once more."""

from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from cache_sidecar.errors import RequestIdReused


class RequestKey(NamedTuple):
    """Identifies a request that may be repeated."""

    request_id: str
    method: str
    fingerprint: bytes
    "Differs when the request differs."


async def first_reply(connection: AsyncConnection[TupleRow], key: RequestKey) -> bytes | None:
    """Returns the reply the request got before, or None. Raises RequestIdReused when it was another request."""
    cursor = await connection.execute(
        "SELECT method, fingerprint, reply FROM cache_sidecar.requests WHERE request_id = %s", [key.request_id]
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    method, fingerprint, reply = row
    if (method, fingerprint) != (key.method, key.fingerprint):
        raise RequestIdReused(key.request_id)
    return bytes(reply)


async def remember(connection: AsyncConnection[TupleRow], key: RequestKey, reply: bytes) -> None:
    """Writes the reply, in the transaction that does the work. Raises UniqueViolation when the request was done before."""
    await connection.execute(
        "INSERT INTO cache_sidecar.requests (request_id, method, fingerprint, reply) VALUES (%s, %s, %s, %s)",
        [key.request_id, key.method, key.fingerprint, reply],
    )
