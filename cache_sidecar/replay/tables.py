"""The shop's own tables, in the arms without a sidecar: as a shop would have them, without what a sidecar needs."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from cache_sidecar.replay.arm import EndState, PageFailed
from cache_sidecar.replay.order_file import Shop

SESSION_SECONDS = 1800
PAGE_SIZE = 24
_SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.products (
    product_id text COLLATE "C" PRIMARY KEY, title text NOT NULL, description text NOT NULL, category text NOT NULL,
    pence bigint NOT NULL);
CREATE INDEX ON shop.products (category, product_id) INCLUDE (title, pence);
CREATE TABLE shop.inventory (
    product_id text COLLATE "C" PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0));
CREATE TABLE shop.sessions (session_id text PRIMARY KEY, user_id text NOT NULL, expire_time timestamptz NOT NULL);
CREATE TABLE shop.cart_items (
    user_id text, product_id text, quantity integer NOT NULL, pence bigint NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (user_id, product_id));
CREATE TABLE shop.reservations (
    reservation_id uuid PRIMARY KEY, user_id text NOT NULL, lines jsonb NOT NULL, is_committed boolean NOT NULL DEFAULT false);
CREATE TABLE shop.requests (request_id uuid PRIMARY KEY);
-- What a job of the shop computes at night: for a product's page, and for a customer's home page; that without a name is
-- everybody else's.
CREATE TABLE shop.related (product_id text PRIMARY KEY, others text[] NOT NULL);
CREATE TABLE shop.home (user_id text COLLATE "C" PRIMARY KEY, others text[] NOT NULL);
"""
_LOCK = """SELECT product_id FROM shop.inventory WHERE product_id = ANY(%s) ORDER BY product_id FOR UPDATE"""
_RESERVE = """
    UPDATE shop.inventory AS stock SET available = available - given.quantity, reserved = reserved + given.quantity
    FROM unnest(%s::text[], %s::bigint[]) AS given (product_id, quantity)
    WHERE stock.product_id = given.product_id"""
_NOTE = "INSERT INTO shop.reservations (reservation_id, user_id, lines) VALUES (%s, %s, %s)"
_COMMIT = """
    WITH sold AS (
        UPDATE shop.reservations SET is_committed = true WHERE reservation_id = %s AND NOT is_committed RETURNING lines
    ), line AS (
        SELECT pair ->> 0 AS product_id, (pair ->> 1)::bigint AS quantity FROM sold, jsonb_array_elements(lines) AS pair
    )
    UPDATE shop.inventory AS stock SET reserved = reserved - line.quantity FROM line WHERE stock.product_id = line.product_id"""
_SESSION = "INSERT INTO shop.sessions VALUES (%s, %s, now() + make_interval(secs => %s)) ON CONFLICT DO NOTHING"
_ADD = """
    INSERT INTO shop.cart_items (user_id, product_id, quantity, pence) VALUES (%s, %s, %s, %s)
    ON CONFLICT (user_id, product_id) DO UPDATE SET quantity = excluded.quantity, pence = excluded.pence"""
CART = """
    SELECT item.product_id, title, item.pence, quantity FROM shop.cart_items AS item JOIN shop.products USING (product_id)
    WHERE user_id = %s ORDER BY position"""
PRODUCT = """
    SELECT title, description, pence, available FROM shop.products JOIN shop.inventory USING (product_id)
    WHERE product_id = %s"""
RELATED = """
    SELECT other.product_id, title, pence
    FROM shop.related AS list, unnest(others) WITH ORDINALITY AS other (product_id, rank), shop.products AS product
    WHERE list.product_id = %s AND product.product_id = other.product_id ORDER BY rank"""
HOME = """
    SELECT other.product_id, title, pence
    FROM (SELECT others FROM shop.home WHERE user_id IN (%s, '') ORDER BY user_id DESC LIMIT 1) AS list,
        unnest(others) WITH ORDINALITY AS other (product_id, rank), shop.products AS product
    WHERE product.product_id = other.product_id ORDER BY rank"""
CATEGORY = f"""
    SELECT product_id, title, pence FROM shop.products WHERE category = %s ORDER BY product_id LIMIT {PAGE_SIZE}"""  # noqa: S608


class Pool:
    """Connections to PostgreSQL in autocommit, the last used first; one that broke is opened anew when it is next needed."""

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._free: asyncio.LifoQueue[AsyncConnection[Any] | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lends a connection. Raises PageFailed for any error of PostgreSQL's."""
        connection = await self._free.get()
        try:
            if connection is None or connection.closed:
                connection = await AsyncConnection.connect(
                    self._dsn, autocommit=True, connect_timeout=2, prepare_threshold=0, options="-c statement_timeout=2000"
                )
            yield connection
        except (psycopg.Error, OSError) as error:
            raise PageFailed(type(error).__name__) from error
        finally:
            self._free.put_nowait(connection)

    async def rows(self, *statements: tuple[str, Sequence[Any]]) -> list[list[Any]]:
        """Executes statements, prepared, in one round trip; returns the rows of each. Several are one transaction."""
        async with self.connection() as connection:
            if len(statements) == 1:
                ((query, parameters),) = statements
                return [await _fetch(await connection.execute(query, parameters))]
            async with connection.pipeline():
                cursors = [await connection.execute(query, parameters) for query, parameters in statements]
            return [await _fetch(cursor) for cursor in cursors]

    async def close(self) -> None:
        """Closes all connections."""
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                await connection.close()


async def _fetch(cursor: Any) -> list[Any]:
    return await cursor.fetchall() if cursor.description else []


class Writes:
    """The changes that both arms without a sidecar make in PostgreSQL, each in as few round trips as it takes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def save_session(self, session_id: str, user_id: str) -> None:
        """Begins a session."""
        await self.pool.rows((_SESSION, (session_id, user_id, SESSION_SECONDS)))

    async def add_to_cart(self, user_id: str, product_id: str, quantity: int, pence: int) -> list[Any]:
        """Sets an item of a cart; returns all of its items, as CART does. Repeated, it changes nothing."""
        return (await self.pool.rows((_ADD, (user_id, product_id, quantity, pence)), (CART, (user_id,))))[1]

    async def reserve(self, user_id: str, lines: Sequence[tuple[str, int]], reservation_id: str) -> None:
        """Reserves pieces of several products, all or none; a reservation that is there already stays as it is."""
        ids, quantities = [id for id, _ in lines], [quantity for _, quantity in lines]
        try:
            # Rows are locked in the order of the ids, so that two reservations do not wait for each other.
            await self.pool.rows(
                (_NOTE, (reservation_id, user_id, json.dumps(lines))), (_LOCK, (ids,)), (_RESERVE, (ids, quantities))
            )
        except PageFailed as error:
            if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                raise

    async def check_out(self, user_id: str, reservation_id: str) -> None:
        """Sells what is reserved and empties the cart; once, however often it is called."""
        lock = """SELECT FROM shop.inventory WHERE product_id IN (
            SELECT pair ->> 0 FROM shop.reservations, jsonb_array_elements(lines) AS pair WHERE reservation_id = %s)
            ORDER BY product_id FOR UPDATE"""
        empty = "DELETE FROM shop.cart_items WHERE user_id = %s"
        await self.pool.rows((lock, (reservation_id,)), (_COMMIT, (reservation_id,)), (empty, (user_id,)))

    async def set_price(self, product_id: str, pence: int) -> None:
        """Changes a price."""
        await self.pool.rows(("UPDATE shop.products SET pence = %s WHERE product_id = %s", (pence, product_id)))

    async def add_stock(self, product_id: str, pieces: int, request_id: str) -> None:
        """Adds pieces, once for each request_id."""
        statement = """WITH new AS (INSERT INTO shop.requests VALUES (%s) ON CONFLICT DO NOTHING RETURNING request_id)
            UPDATE shop.inventory SET available = available + %s FROM new WHERE product_id = %s"""
        await self.pool.rows((statement, (request_id, pieces, product_id)))

    async def end_state(self) -> EndState:
        """Returns what the tables hold."""
        stock, carts, ((orders,),) = await self.pool.rows(
            ("SELECT product_id, available, reserved FROM shop.inventory", ()),
            ("SELECT DISTINCT user_id FROM shop.cart_items", ()),
            ("SELECT count(*) FROM shop.reservations WHERE is_committed", ()),
        )
        by_id: Mapping[str, tuple[int, int]] = {id: (available, reserved) for id, available, reserved in stock}
        return EndState(by_id, {user_id for (user_id,) in carts}, orders, None)


async def fill(dsn: str, shop: Shop) -> None:
    """Creates the tables with the products of a shop, and has PostgreSQL look at them."""
    async with await AsyncConnection.connect(dsn) as connection:
        await connection.execute(_SCHEMA.encode())
        products = shop.products.values()
        await _copy(
            connection, "products", ((one.product_id, one.title, one.description, one.category, one.pence) for one in products)
        )
        await _copy(connection, "inventory (product_id, available)", ((one.product_id, one.stock) for one in products))
        await _copy(connection, "related", shop.related.items())
        await _copy(connection, "home", [*shop.home.items(), ("", shop.popular)])
        await connection.execute("ANALYZE")


async def _copy(connection: AsyncConnection[Any], table: str, rows: Iterable[Sequence[Any]]) -> None:
    async with connection.cursor() as cursor, cursor.copy(f"COPY shop.{table} FROM STDIN".encode()) as copy:
        for row in rows:
            await copy.write_row(row)
