"""A sidecar is killed and started again while a client writes: no write is lost or doubled, and no caller sees an error."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import cache_sidecar_client
import pytest
from cache_sidecar_client import L0, Options, ProductChange, aio

from tests.clients.restarts import KILLS, USERS, note
from tests.interop.test_service_config import Serving
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)


class Client:
    """Either client, called in the same way."""

    def __init__(self, style: str, address: str, **options: Any) -> None:
        self.repeats: list[int] = []
        "Of each call, how often it was repeated."
        made = Options(
            address=address,
            write_timeout=120.0,
            read_timeout=120.0,
            on_call=lambda call: self.repeats.append(call.attempts - 1),
            **options,
        )
        self.shop = aio.connect(options=made) if style == "asyncio" else cache_sidecar_client.connect(options=made)
        self.longest = 0.0
        self.calls = 0

    async def call(self, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        began = time.monotonic()
        result = (
            await asyncio.to_thread(method, *args, **more)
            if isinstance(self.shop, cache_sidecar_client.Client)
            else await method(*args, **more)
        )
        self.longest = max(self.longest, time.monotonic() - began)
        self.calls += 1
        return result

    async def changes(self, into: list[ProductChange]) -> None:
        """Collects the events of a watch until the client is closed."""
        if isinstance(self.shop, aio.Client):
            async for change in self.shop.products.watch():
                into.append(change)  # noqa: PERF401  # the test looks at them meanwhile
        else:
            await asyncio.to_thread(self._changes_of, self.shop, into)

    @staticmethod
    def _changes_of(shop: cache_sidecar_client.Client, into: list[ProductChange]) -> None:
        for change in shop.products.watch():
            into.append(change)  # noqa: PERF402

    async def close(self) -> None:
        closing = self.shop.close()
        if isinstance(closing, Awaitable):
            await closing


@pytest.mark.parametrize("style", ["asyncio", "sync"])
async def test_no_write_is_lost_or_doubled(style: str, sidecar: Serving, engine: str) -> None:
    client = Client(style, sidecar.address)
    shop: Any = client.shop
    await client.call(shop.inventory.set, "stock", 1_000_000)
    await client.call(shop.products.create, "product", title="0", price="1 EUR")
    events: list[ProductChange] = []
    watching = asyncio.create_task(client.changes(events))
    await until(lambda: events)
    stopping = asyncio.Event()

    async def add(user: str) -> int:
        count = 0
        while not stopping.is_set():
            await client.call(shop.carts.add, user, "mug", 1, "1 EUR")
            count += 1
            if count == 900:  # a cart holds 999 pieces
                break
        return count

    async def reserve() -> int:
        count = 0
        while not stopping.is_set():
            await client.call(shop.inventory.reserve, "user", {"stock": 1})
            count += 1
        return count

    async def update() -> int:
        count = 0
        while not stopping.is_set():
            count += 1
            await client.call(shop.products.update, "product", title=str(count))
        return count

    users = [f"user-{number}" for number in range(USERS)]
    tasks = [asyncio.create_task(run) for run in (*map(add, users), reserve(), update())]
    for _ in range(KILLS):
        written = client.calls
        await until(lambda written=written: client.calls > written + 50 or all(task.done() for task in tasks))
        await sidecar.end(signal.SIGKILL)
        await sidecar.start()
    stopping.set()
    *added, reserved, updated = await asyncio.gather(*tasks)

    for user, count in zip(users, added, strict=True):
        cart = await client.call(shop.carts.get, user, bypass=True)
        assert [item.quantity for item in cart.items] == [count]
    stock = await client.call(shop.inventory.get, "stock", bypass=True)
    assert (stock.reserved, stock.available) == (reserved, 1_000_000 - reserved)
    assert (await client.call(shop.products.get, "product", bypass=True)).title == str(updated)
    # The watch has told every update, in order, and none twice.
    await until(lambda: sum(event.kind == "UPDATED" for event in events) >= updated)
    versions = [event.version for event in events if event.kind == "UPDATED"]
    assert len(versions) == updated
    assert versions == sorted(set(versions))
    assert not any(event.missed for event in events)
    await client.close()
    with contextlib.suppress(cache_sidecar_client.errors.ClientClosed):
        await watching
    note(f"{style} on {engine}", sum(added) + reserved + updated, client.longest, {"retries": sum(client.repeats)})


@pytest.mark.parametrize("style", ["asyncio", "sync"])
async def test_l0_is_empty_while_its_watch_is_broken(style: str, sidecar: Serving) -> None:
    client, other = Client(style, sidecar.address, l0=L0(max_age=3600.0)), Client(style, sidecar.address)
    shop: Any = client.shop
    await other.call(other.shop.products.create, "product", title="A", price="1 EUR")

    async def source() -> str:
        return (await client.call(shop.products.get, "product")).cache.source

    async def is_from(expected: str) -> bool:
        return await source() == expected

    await until(lambda: is_from("L0"))
    await other.call(other.shop.products.update, "product", title="B")
    await until(lambda: _is(client, "B"))
    await until(lambda: is_from("L0"))
    await sidecar.end(signal.SIGKILL)
    await until(lambda: len(shop.products.memory) == 0)
    await sidecar.start()
    assert await source() != "L0"
    await until(lambda: is_from("L0"))
    await client.close()
    await other.close()


async def _is(client: Client, title: str) -> bool:
    return (await client.call(client.shop.products.get, "product")).title == title
