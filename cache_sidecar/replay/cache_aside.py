"""The arm with the usual cache: redis-py beside PostgreSQL, a page in one pipeline, what is missing in a second one.

Sessions are in Redis alone, as usual; carts and stock are written to PostgreSQL, then to Redis. What is read from PostgreSQL is
filled in beside the page, which does not wait for it. A change deletes the keys it knows of; lists live for a minute.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError

from cache_sidecar.replay import tables
from cache_sidecar.replay.arm import Card, Customer, EndState, Page, PageFailed
from cache_sidecar.replay.tables import CART, SESSION_SECONDS, Pool, Writes

# Seconds. A fill may come after the deletion by a change, so a product may be as old as its entry.
PRODUCT_SECONDS, STOCK_SECONDS, LIST_SECONDS, CART_SECONDS = 300, 300, 60, 3600
_TIMEOUT = 2.0

# What a key is filled from: its statement, its time to live, and what is made of the rows.
_Fill = tuple[str, Any, int, Callable[[list[Any]], Any]]


class CacheAsideArm:
    """A shop that asks Redis first."""

    name = "redis"
    bound = float(PRODUCT_SECONDS)

    def __init__(self, dsn: str, nodes: Sequence[tuple[str, int]], *, is_cluster: bool, connections: int) -> None:
        self._pool = Pool(dsn, connections)
        self._writes = Writes(self._pool)
        self._redis: Any
        if is_cluster:
            self._redis = RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in nodes],
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
            )
        else:
            ((host, port),) = nodes
            self._redis = Redis(host=host, port=port, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._fills: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*self._fills, return_exceptions=True)
        await self._redis.aclose()
        await self._pool.close()

    async def log_in(self, user_id: str, *, is_known: bool, request_id: UUID) -> Customer:
        """Begins a session."""
        session_id = f"{request_id}{secrets.token_urlsafe(16)}"
        await self._ask(lambda pipe: pipe.set(f"session:{session_id}", user_id, ex=SESSION_SECONDS))
        return Customer(user_id, session_id, is_known)

    async def home_page(self, customer: Customer) -> Page:
        """Session, cart, and what is recommended."""
        cart, cards = await self._page(customer, f"home:{customer.user_id if customer.is_known else ''}")
        return Page(_in_cart(cart), [Card(*card) for card in cards])

    async def category_page(self, customer: Customer, category: str) -> Page:
        """Session, cart, and the first products of a category."""
        cart, cards = await self._page(customer, f"category:{category}")
        return Page(_in_cart(cart), [Card(*card) for card in cards])

    async def product_page(self, customer: Customer, product_id: str) -> Page:
        """Session, cart, the product with its stock, and what is recommended with it."""
        cart, product, stock, related = await self._page(
            customer, f"product:{product_id}", f"stock:{product_id}", f"related:{product_id}"
        )
        if product is None:
            raise PageFailed("NOT_FOUND")
        return Page(_in_cart(cart), [Card(*card) for card in related], product["pence"], stock)

    async def cart_page(self, customer: Customer) -> Page:
        """Session, and the cart with its products."""
        (cart,) = await self._page(customer)
        return Page(_in_cart(cart), [Card(id, title, pence) for id, title, pence, _ in cart])

    async def add_to_cart(self, customer: Customer, product_id: str, quantity: int, pence: int, request_id: UUID) -> None:  # noqa: ARG002
        """Adds a product to the cart."""
        rows = await self._writes.add_to_cart(customer.user_id, product_id, quantity, pence)
        await self._ask(lambda pipe: pipe.set(f"cart:{customer.user_id}", json.dumps(rows), ex=CART_SECONDS))

    async def reserve(self, customer: Customer, lines: Sequence[tuple[str, int]], request_id: UUID) -> str:
        """Reserves pieces of several products."""
        await self._writes.reserve(customer.user_id, lines, str(request_id))
        await self._ask(*(_delete(f"stock:{product_id}") for product_id, _ in lines))
        return str(request_id)

    async def check_out(self, customer: Customer, reservation_id: str, request_id: UUID) -> None:  # noqa: ARG002
        """Sells what is reserved, and empties the cart."""
        await self._writes.check_out(customer.user_id, reservation_id)
        await self._ask(lambda pipe: pipe.set(f"cart:{customer.user_id}", "[]", ex=CART_SECONDS))

    async def set_price(self, product_id: str, pence: int, request_id: UUID) -> None:  # noqa: ARG002
        """Changes a price."""
        await self._writes.set_price(product_id, pence)
        await self._ask(_delete(f"product:{product_id}"))

    async def add_stock(self, product_id: str, pieces: int, request_id: UUID) -> None:
        """Adds pieces."""
        await self._writes.add_stock(product_id, pieces, str(request_id))
        await self._ask(_delete(f"stock:{product_id}"))

    async def tiers(self) -> Counter[tuple[str, str]]:
        """Returns the reads answered by Redis and by PostgreSQL."""
        return Counter(self._counts)

    async def end_state(self, *, orders: int) -> EndState:  # noqa: ARG002
        """Returns what PostgreSQL holds."""
        return await self._writes.end_state()

    async def _page(self, customer: Customer, *keys: str) -> list[Any]:
        """Returns the cart and the values of a page's own keys: from one pipeline, and what is missing from PostgreSQL."""
        wanted = [f"cart:{customer.user_id}", *keys]
        session = f"session:{customer.session_id}"
        user_id, *found = await self._ask(lambda pipe: pipe.getex(session, ex=SESSION_SECONDS), *(_get(key) for key in wanted))
        if user_id is None:
            raise PageFailed("SESSION_ENDED")
        values = {key: json.loads(text) for key, text in zip(wanted, found, strict=True) if text is not None}
        missing = [key for key in wanted if key not in values]
        if missing:
            values |= await self._load(missing)
        for key in wanted:
            self._counts[key.partition(":")[0], "store" if key in missing else "l2"] += 1
        return [values[key] for key in wanted]

    async def _load(self, keys: Sequence[str]) -> Mapping[str, Any]:
        fills = [_fill(key) for key in keys]
        rows = await self._pool.rows(*((query, (parameter,)) for query, parameter, _, _ in fills))
        values = {key: make(of) for key, (_, _, _, make), of in zip(keys, fills, rows, strict=True)}
        lives = {key: seconds for key, (_, _, seconds, _) in zip(keys, fills, strict=True)}
        task = asyncio.create_task(self._store(values, lives))
        self._fills.add(task)
        task.add_done_callback(self._fills.discard)
        return values

    async def _store(self, values: Mapping[str, Any], seconds: Mapping[str, int]) -> None:
        commands = [_set(key, json.dumps(value), seconds[key]) for key, value in values.items()]
        try:
            await self._ask(*commands)
        except PageFailed:
            return  # the next page that needs it tries again

    async def _ask(self, *commands: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        """Executes commands in one pipeline, and returns their replies."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            for command in commands:
                command(pipe)
            replies: list[Any] = await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise PageFailed(type(error).__name__) from error
        return replies


def _fill(key: str) -> _Fill:
    kind, _, id = key.partition(":")
    match kind:
        case "product":
            return tables.PRODUCT, id, PRODUCT_SECONDS, _product
        case "stock":
            query = "SELECT available FROM shop.inventory WHERE product_id = %s"
            return query, id, STOCK_SECONDS, lambda rows: rows[0][0] if rows else 0
        case "cart":
            return CART, id, CART_SECONDS, list
        case "home":
            return tables.HOME, id, LIST_SECONDS, list
        case "category":
            return tables.CATEGORY, id, LIST_SECONDS, list
        case _:
            return tables.RELATED, id, LIST_SECONDS, list


def _product(rows: Sequence[Any]) -> dict[str, Any] | None:
    if not rows:
        return None
    ((title, description, pence, _),) = rows
    return {"title": title, "description": description, "pence": pence}


def _in_cart(cart: Sequence[Sequence[Any]]) -> int:
    return sum(quantity for *_, quantity in cart)


def _get(key: str) -> Callable[[Any], Any]:
    return lambda pipe: pipe.get(key)


def _set(key: str, text: str, seconds: int) -> Callable[[Any], Any]:
    return lambda pipe: pipe.set(key, text, ex=seconds)


def _delete(key: str) -> Callable[[Any], Any]:
    return lambda pipe: pipe.delete(key)
