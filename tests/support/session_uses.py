"""Sessions whose clock the test moves: when they expire, and what PostgreSQL knows of their use."""

from typing import Any

import psycopg
from psycopg import sql

from cache_sidecar.services.session import hash_of
from tests.support import inside
from tests.support.customers import Customer
from tests.support.shop import refused

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


async def is_over(customer: Customer, session_id: str) -> bool:
    """Returns whether a session has ended; asking counts as a use."""
    try:
        await customer.touch(session_id)
    except Exception:  # noqa: BLE001  # whatever it is, `refused` says what it has to be
        return (await refused(customer.touch(session_id))).reason == "NOT_FOUND"
    return False


async def stored(dsn: str, session_id: str) -> float:
    """Returns the expiry according to the last use recorded in PostgreSQL."""
    rows = await query(dsn, "SELECT use_time FROM cache_sidecar.sessions WHERE session_hash = %s", hash_of(session_id))
    return float(rows[0][0].timestamp()) + 30 * MINUTE


async def query(dsn: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(sql.SQL(text), parameters)  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


async def flush(customer: Customer) -> None:
    """Writes the due uses to PostgreSQL now, which otherwise happens every second."""
    assert customer.sidecar.app is not None
    servicer: Any = inside.served_of(customer.sidecar.app)["session"].service.servicer
    await inside.touches_of(servicer).flush()
