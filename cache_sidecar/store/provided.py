"""Lists that the shop computed itself: imported in batches, and served from the one that was committed last. SQL only.

A batch is written in any number of transactions, and nobody reads it before it is committed. Each transaction says which list
of the batch it begins with, and first locks the batch's row. So lists that are sent again, or by two senders at once, are
stored once, and none is missing from a batch that is committed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cache_sidecar.core.errors import BatchCommitted, InvalidRequest, ListsMissing
from cache_sidecar.store.connection import Executor
from cache_sidecar.store.database import Database
from cache_sidecar.store.writes import Transaction, WriteResult

# Lists that one transaction deletes, and days after which a batch that nobody goes on with is deleted.
_DELETED = 5000
ABANDONED = 7
# Lists of a batch that are counted at most: a fraction of a second.
COUNTED = 1_000_000
# PostgreSQL refuses a number of 4 bytes outside of these.
_SMALLEST, _GREATEST = 1e-37, 3e38

_LOCK = "SELECT batch, state, next_list FROM cache_sidecar.recommendation_batches WHERE batch_id = %s FOR UPDATE"
_OPEN = "INSERT INTO cache_sidecar.recommendation_batches (batch_id) VALUES (%s) ON CONFLICT (batch_id) DO NOTHING"
_ADD = """
    INSERT INTO cache_sidecar.provided_recommendations (batch, user_id, product_id, model, product_ids, scores)
    SELECT %s, user_id, product_id, model, product_ids::text[], scores::real[]
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
        AS given (user_id, product_id, model, product_ids, scores)
    ON CONFLICT (batch, user_id, product_id, model)
    DO UPDATE SET product_ids = excluded.product_ids, scores = excluded.scores"""
_FIND = """
    SELECT list.user_id, list.product_id, list.model, list.product_ids, list.scores, batch.batch_id
    FROM cache_sidecar.recommendation_batches AS batch
    CROSS JOIN unnest(%s::text[], %s::text[], %s::text[]) AS wanted (user_id, product_id, model)
    JOIN cache_sidecar.provided_recommendations AS list USING (batch, user_id, product_id, model)
    WHERE batch.state = 'served'"""
_DELETE_OF_PRODUCT = """
    DELETE FROM cache_sidecar.provided_recommendations
    WHERE batch IN (SELECT batch FROM cache_sidecar.recommendation_batches) AND user_id = '' AND product_id = %s"""


class Key(NamedTuple):
    """Whom a list is for: a user, or the page of a product. The other one is empty."""

    user_id: str
    product_id: str
    model: str
    "Such as RECOMMENDED_FOR_YOU."


class ProvidedList(NamedTuple):
    """One list of a batch."""

    key: Key
    product_ids: Sequence[str]
    "Best first, each once."
    scores: Sequence[float]
    "As many."


class ServedList(NamedTuple):
    """A list of the batch that is served."""

    product_ids: Sequence[str]
    scores: Sequence[float]
    batch_id: str


class Progress(NamedTuple):
    """How far a batch is."""

    next_list: int
    "The number of lists that are stored."
    is_committed: bool
    added: int = 0
    "The number of lists that were not stored before."


async def receive(
    executor: Executor, batch_id: str, lists: Sequence[ProvidedList], *, first: int, commit: bool = False
) -> Progress:
    """Adds lists to a batch, beginning with its list number `first`, from 0; those that it has are skipped.

    Makes the batch if there is none. `commit` has it replace the one that is served, with these lists as its last. To be
    called in a transaction; may be called again with the same lists.

    Raises ListsMissing if lists before `first` are not stored, BatchCommitted if there are new lists for a batch that is
    served, or was, and InvalidRequest when a batch without lists is to be committed.
    """
    batch, state, stored = await _lock(executor, batch_id)
    if first > stored:
        raise ListsMissing(batch_id, stored, first)
    new = lists[stored - first :]
    if state == "replaced" or (state == "served" and new):
        raise BatchCommitted(batch_id, is_replaced=state == "replaced")
    if state == "served":
        return Progress(stored, is_committed=True)
    if new:
        await executor.execute(_ADD, [batch, *_columns(new)])
    stored += len(new)
    if commit:
        if not stored:
            raise InvalidRequest({"commit": "the batch has no lists: to have none, delete the one that is served"})
        # One at a time: two would both find the same one to replace.
        await executor.execute("SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.recommendation_batches'))")
        await executor.execute("UPDATE cache_sidecar.recommendation_batches SET state = 'replaced' WHERE state = 'served'")
        await executor.execute(
            "UPDATE cache_sidecar.recommendation_batches SET state = 'served', commit_time = now() WHERE batch = %s", [batch]
        )
    await executor.execute(
        "UPDATE cache_sidecar.recommendation_batches SET next_list = %s, update_time = now() WHERE batch = %s", [stored, batch]
    )
    return Progress(stored, is_committed=commit, added=len(new))


def _columns(lists: Sequence[ProvidedList]) -> list[list[str]]:
    """Returns the columns of lists, of which the last one with a key counts; arrays as PostgreSQL writes them.

    Half of the time of JSON: arrays of different lengths cannot be one parameter.
    """
    by_key = sorted({one.key: one for one in lists}.items())
    keys = [list(column) for column in zip(*(key for key, _ in by_key), strict=True)]
    products = ["{" + ",".join(map(_quote, one.product_ids)) + "}" for _, one in by_key]
    scores = ["{" + ",".join(repr(_as_real(score)) for score in one.scores) + "}" for _, one in by_key]
    return [*keys, products, scores]


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _as_real(score: float) -> float:
    """Returns a score within what PostgreSQL's `real` can hold."""
    return 0.0 if abs(score) < _SMALLEST else max(-_GREATEST, min(score, _GREATEST))


async def _lock(executor: Executor, batch_id: str) -> tuple[int, str, int]:
    # More than once: `sweep` may delete it between the two statements.
    while (row := await (await executor.execute(_LOCK, [batch_id])).fetchone()) is None:
        await executor.execute(_OPEN, [batch_id])
    return row[0], row[1], row[2]


async def retire(executor: Executor, batch_id: str) -> int:
    """Has a batch be served no more, and deleted by `sweep`; returns how many lists it has. In a transaction.

    They are counted up to COUNTED: `next_list` also has those that were replaced within the batch, or deleted since.
    """
    query = """UPDATE cache_sidecar.recommendation_batches SET state = 'replaced'
               WHERE batch_id = %s AND state <> 'replaced' RETURNING batch"""
    row = await (await executor.execute(query, [batch_id])).fetchone()
    if row is None:
        return 0
    count = """SELECT count(*) FROM
               (SELECT FROM cache_sidecar.provided_recommendations WHERE batch = %s LIMIT %s) AS counted"""
    counted = await (await executor.execute(count, [row[0], COUNTED])).fetchone()
    return int(counted[0]) if counted else 0


async def sweep(executor: Executor) -> bool:
    """Deletes lists that are not served any more, at most 5,000, in a transaction; returns whether there may be more."""
    query = """
        SELECT batch FROM cache_sidecar.recommendation_batches
        WHERE state = 'replaced' OR (state = 'open' AND update_time < now() - make_interval(days => %s))
        ORDER BY batch LIMIT 1 FOR UPDATE SKIP LOCKED"""
    row = await (await executor.execute(query, [ABANDONED])).fetchone()
    if row is None:
        return False
    (batch,) = row
    delete = """
        DELETE FROM cache_sidecar.provided_recommendations WHERE batch = %s AND (user_id, product_id, model) IN (
            SELECT user_id, product_id, model FROM cache_sidecar.provided_recommendations WHERE batch = %s LIMIT %s)"""
    cursor = await executor.execute(delete, [batch, batch, _DELETED])
    if cursor.rowcount < _DELETED:
        await executor.execute("DELETE FROM cache_sidecar.recommendation_batches WHERE batch = %s", [batch])
    return True


class ProvidedStore:
    """What sidecars read and write. Methods raise TierFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, keys: Sequence[Key]) -> dict[Key, ServedList]:
        """Returns the lists that are served for some keys, by those that have one; all of one batch."""
        rows = await self._database.fetch(_FIND, [list(column) for column in zip(*keys, strict=True)])
        return {Key(*row[:3]): ServedList(*row[3:]) for row in rows}

    async def read(self, user_id: str) -> list[Any]:
        """Returns a user's lists in all batches, as JSON values."""
        query = """SELECT to_jsonb(list) - 'batch' || jsonb_build_object('batch_id', batch.batch_id)
                   FROM cache_sidecar.recommendation_batches AS batch
                   JOIN cache_sidecar.provided_recommendations AS list USING (batch)
                   WHERE list.user_id = %s ORDER BY batch, model"""
        return [found for (found,) in await self._database.fetch(query, [user_id])]

    async def receive(self, batch_id: str, lists: Sequence[ProvidedList], *, first: int, commit: bool = False) -> Progress:
        """As the function `receive`, in a transaction."""

        async def write(tx: Transaction) -> WriteResult[Progress]:
            return WriteResult(b"", value=await receive(tx, batch_id, lists, first=first, commit=commit))

        progress = (await self._database.write(None, write)).value
        assert progress is not None
        return progress

    async def sweep(self) -> bool:
        """As the function `sweep`, in a transaction."""

        async def write(tx: Transaction) -> WriteResult[bool]:
            return WriteResult(b"", value=await sweep(tx))

        return bool((await self._database.write(None, write)).value)

    async def delete_of_user(self, user_id: str) -> int:
        """Deletes the lists of a user in all batches, has caches drop the user's home page, and returns how many those were."""

        async def write(tx: Transaction) -> WriteResult[int]:
            row = await (await tx.execute("SELECT cache_sidecar.delete_provided_lists(%s)", [user_id])).fetchone()
            assert row is not None
            return WriteResult(b"", value=row[0])

        return (await self._database.write(None, write)).value or 0

    async def delete_of_product(self, product_id: str) -> int:
        """Deletes the lists for a product's page in all batches, and returns how many those were."""

        async def write(tx: Transaction) -> WriteResult[int]:
            return WriteResult(b"", value=(await tx.execute(_DELETE_OF_PRODUCT, [product_id])).rowcount)

        return (await self._database.write(None, write)).value or 0

    async def delete_batch(self, batch_id: str) -> int:
        """Has a batch be served no more, and deleted by `sweep`; returns how many lists it had."""

        async def write(tx: Transaction) -> WriteResult[int]:
            return WriteResult(b"", value=await retire(tx, batch_id))

        return (await self._database.write(None, write)).value or 0
