"""The arm without caches: psycopg and PostgreSQL, with a pool, prepared statements, and a page in one round trip."""

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from cache_sidecar.replay import tables
from cache_sidecar.replay.arm import Card, Customer, EndState, Page, PageFailed
from cache_sidecar.replay.tables import CART, SESSION_SECONDS, Pool, Writes

# The session's use is written once in 5 minutes, as sidecars do, not with every page.
_TOUCH_SECONDS = 300
_SESSION = """SELECT user_id, extract(epoch FROM expire_time - now())::float8 FROM shop.sessions
    WHERE session_id = %s AND expire_time > now()"""
_TOUCH = "UPDATE shop.sessions SET expire_time = now() + make_interval(secs => %s) WHERE session_id = %s"
_IN_CART = "SELECT coalesce(sum(quantity), 0)::bigint FROM shop.cart_items WHERE user_id = %s"

Statement = tuple[str, Sequence[Any]]


class DirectArm:
    """A shop that reads PostgreSQL for every page."""

    name = "direct"
    bound = 0.0

    def __init__(self, dsn: str, *, connections: int) -> None:
        self._pool = Pool(dsn, connections)
        self._writes = Writes(self._pool)

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.close()

    async def log_in(self, user_id: str, *, is_known: bool, request_id: UUID) -> Customer:
        """Begins a session."""
        session_id = f"{request_id}{secrets.token_urlsafe(16)}"
        await self._writes.save_session(session_id, user_id)
        return Customer(user_id, session_id, is_known)

    async def home_page(self, customer: Customer) -> Page:
        """Session, cart, and what is recommended."""
        in_cart, rows = await self._page(customer, (tables.HOME, (customer.user_id if customer.is_known else "",)))
        return Page(in_cart, [Card(*row) for row in rows])

    async def category_page(self, customer: Customer, category: str) -> Page:
        """Session, cart, and the first products of a category."""
        in_cart, rows = await self._page(customer, (tables.CATEGORY, (category,)))
        return Page(in_cart, [Card(*row) for row in rows])

    async def product_page(self, customer: Customer, product_id: str) -> Page:
        """Session, cart, the product with its stock, and what is recommended with it."""
        in_cart, product, related = await self._page(customer, (tables.PRODUCT, (product_id,)), (tables.RELATED, (product_id,)))
        if not product:
            raise PageFailed("NOT_FOUND")
        ((_, _, pence, stock),) = product
        return Page(in_cart, [Card(*row) for row in related], pence, stock)

    async def cart_page(self, customer: Customer) -> Page:
        """Session, and the cart with its products."""
        session, rows = await self._pool.rows((_SESSION, (customer.session_id,)), (CART, (customer.user_id,)))
        await self._touch(customer, session)
        return Page(sum(quantity for *_, quantity in rows), [Card(id, title, pence) for id, title, pence, _ in rows])

    async def add_to_cart(self, customer: Customer, product_id: str, quantity: int, pence: int, request_id: UUID) -> None:  # noqa: ARG002
        """Adds a product to the cart."""
        await self._writes.add_to_cart(customer.user_id, product_id, quantity, pence)

    async def reserve(self, customer: Customer, lines: Sequence[tuple[str, int]], request_id: UUID) -> str:
        """Reserves pieces of several products."""
        await self._writes.reserve(customer.user_id, lines, str(request_id))
        return str(request_id)

    async def check_out(self, customer: Customer, reservation_id: str, request_id: UUID) -> None:  # noqa: ARG002
        """Sells what is reserved, and empties the cart."""
        await self._writes.check_out(customer.user_id, reservation_id)

    async def set_price(self, product_id: str, pence: int, request_id: UUID) -> None:  # noqa: ARG002
        """Changes a price."""
        await self._writes.set_price(product_id, pence)

    async def add_stock(self, product_id: str, pieces: int, request_id: UUID) -> None:
        """Adds pieces."""
        await self._writes.add_stock(product_id, pieces, str(request_id))

    async def tiers(self) -> Counter[tuple[str, str]]:
        """Returns nothing: there are no tiers."""
        return Counter()

    async def end_state(self, *, orders: int) -> EndState:  # noqa: ARG002
        """Returns what PostgreSQL holds."""
        return await self._writes.end_state()

    async def _page(self, customer: Customer, *own: Statement) -> tuple[Any, ...]:
        """Returns the pieces in the cart, and the rows of a page's own statements."""
        session, ((in_cart,),), *rows = await self._pool.rows(
            (_SESSION, (customer.session_id,)), (_IN_CART, (customer.user_id,)), *own
        )
        await self._touch(customer, session)
        return in_cart, *rows

    async def _touch(self, customer: Customer, session: Sequence[tuple[str, float]]) -> None:
        if not session:
            raise PageFailed("SESSION_ENDED")
        ((_, left),) = session
        if left < SESSION_SECONDS - _TOUCH_SECONDS:
            await self._pool.rows((_TOUCH, (SESSION_SECONDS, customer.session_id)))
