"""`python -m tests.consistency.propagation`: how long a change takes until the last of four sidecars serves it.

From the reply of UpdateProduct, and from the commit of an UPDATE in plain SQL by another program, to the first reply of the last
sidecar that has the change; quiet, and with reads going on. Every sidecar had the product in its memory. Stock, which no sidecar
has in its memory, is changed in plain SQL, too.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import click
import grpc
import psycopg
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from cache_sidecar.v1 import inventory_service_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.consistency.clients.products import UPDATE, make_products
from tests.consistency.servers import servers
from tests.consistency.stack import running

_FILE = Path("build/propagation.json")
_SIDECARS, _RELAYS, _PRODUCTS = 4, 2, 1000
# Reads going on, per second, and how many of them are asked for at once.
_READS, _BATCH = 5000, 10
# Seconds between two changes that are measured.
_PAUSE = 0.02
# And between two looks at a sidecar. Without it the looking would take both cores from those who are to be measured.
_EVERY = 0.001
# A change that takes longer than this is lost.
_LOST_SECONDS = 30.0
_INSERT_STOCK = "INSERT INTO cache_sidecar.inventory (product_id, available) SELECT id, 10 FROM unnest(%s::text[]) AS id"
# Returns the version of the stock: see migrations/catalog/0007.
_UPDATE_STOCK = """UPDATE cache_sidecar.inventory SET available = available + 1 WHERE product_id = %s
                   RETURNING 10000 * epoch + steps"""

Change = Callable[[int, str], Awaitable[int]]
"""Changes a product, given the number of the change, and returns the version once that is acknowledged or committed."""

Served = Callable[[str, int], Awaitable[float]]
"""Returns the moment at which the last sidecar served a version of a product, or a newer one."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The times of one kind of change, in seconds, ascending."""

    name: str
    seconds: Sequence[float]
    goal: float | None
    "What 99 in 100 are to stay under."

    def percentile(self, percent: float) -> float:
        """Returns the time that so many per cent did not exceed."""
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * percent / 100))]

    def entry(self) -> dict[str, Any]:
        """Returns what is written of it, in milliseconds."""
        figures = {f"p{percent}_ms": round(self.percentile(percent) * 1000, 2) for percent in (50, 90, 99)}
        goal = {} if self.goal is None else {"goal_ms": self.goal * 1000, "met": self.percentile(99) < self.goal}
        return {"name": self.name, "changes": len(self.seconds), **figures, "max_ms": round(self.seconds[-1] * 1000, 2)} | goal


class Sidecars:
    """A channel to each sidecar."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self.stubs = [ProductServiceStub(channel) for channel in channels]
        self._inventories = [InventoryServiceStub(channel) for channel in channels]

    async def update(self, number: int, product_id: str) -> int:
        """Changes a product through one sidecar after the other."""
        request = pb.UpdateProductRequest(product=Product(product_id=product_id, title=f"number {number}"))
        request.update_mask.paths.append("title")
        reply = await self.stubs[number % len(self.stubs)].UpdateProduct(request)
        return int(reply.product.etag, 16)

    async def served(self, product_id: str, version: int) -> float:
        """Returns the moment at which the last of them replied with a version of a product, or a newer one."""
        request = pb.GetProductRequest(product_id=product_id)
        return await _last([stub.GetProduct for stub in self.stubs], request, version)

    async def served_stock(self, product_id: str, version: int) -> float:
        """Returns the same of a version of its stock."""
        request = inventory_service_pb2.GetInventoryRequest(product_id=product_id)
        return await _last([stub.GetInventory for stub in self._inventories], request, version)

    @asynccontextmanager
    async def reading(self, ids: Sequence[str]) -> AsyncIterator[None]:
        """Has _READS products a second read, the same number through each."""
        tasks = [asyncio.create_task(self._read(stub, ids)) for stub in self.stubs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stub: Any, ids: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        calls: set[asyncio.Task[Any]] = set()
        every, due = _BATCH * len(self.stubs) / _READS, loop.time()
        for number in range(10**9):
            first = number * _BATCH % len(ids)
            call = stub.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids[first : first + _BATCH]))
            calls.add(task := asyncio.ensure_future(call))
            task.add_done_callback(calls.discard)
            due += every
            await asyncio.sleep(due - loop.time())


async def _last(methods: Sequence[Any], request: Any, version: int) -> float:
    return max(await asyncio.gather(*(_served(method, request, version) for method in methods)))


async def _served(method: Any, request: Any, version: int) -> float:
    async with asyncio.timeout(_LOST_SECONDS):
        while (await method(request)).cache.version < version:
            await asyncio.sleep(_EVERY)
    return time.perf_counter()


async def _measure(
    name: str, change: Change, served: Served, ids: Sequence[str], *, changes: int, goal: float | None
) -> Measured:
    found = []
    for number in range(changes):
        id = ids[number % len(ids)]
        await served(id, 0)  # so that each has it in its memory
        await asyncio.sleep(_PAUSE)
        version = await change(number, id)
        changed = time.perf_counter()
        found.append(await served(id, version) - changed)
    return Measured(name=name, seconds=sorted(found), goal=goal)


async def _run(changes: int) -> list[Measured]:
    async with AsyncExitStack() as opened:
        own = await opened.enter_async_context(servers())
        dsn = own.postgres.dsn()
        stack = await opened.enter_async_context(
            running(
                own.processes,
                own.cluster,
                own.postgres,
                dsn=dsn,
                namespace="cs",
                sidecars=_SIDECARS,
                relays=_RELAYS,
                can_be_cut=False,
            )
        )
        ids = await make_products(dsn, _PRODUCTS)
        channels = [await opened.enter_async_context(grpc.aio.insecure_channel(one.grpc)) for one in stack.sidecars]
        sidecars = Sidecars(channels)
        connection = await opened.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
        await connection.execute(_INSERT_STOCK, [ids])

        def by_sql(statement: LiteralString) -> Change:
            async def update(_number: int, product_id: str) -> int:
                cursor = await connection.execute(statement, [product_id])
                (version,) = await cursor.fetchone() or (0,)
                return int(version)

            return update

        async def measure(name: str, change: Change, served: Served, goal: float | None = None) -> Measured:
            return await _measure(name, change, served, ids, changes=changes, goal=goal)

        await _measure("warm-up", sidecars.update, sidecars.served, ids, changes=20, goal=None)
        quiet = [
            await measure("UpdateProduct, quiet", sidecars.update, sidecars.served, 0.010),
            await measure("plain SQL, quiet", by_sql(UPDATE), sidecars.served, 0.100),
            await measure("plain SQL of stock, quiet", by_sql(_UPDATE_STOCK), sidecars.served_stock, 0.100),
        ]
        async with sidecars.reading(ids):
            return [
                *quiet,
                await measure(f"UpdateProduct, {_READS:,} reads/s", sidecars.update, sidecars.served),
                await measure(f"plain SQL, {_READS:,} reads/s", by_sql(UPDATE), sidecars.served),
            ]


@click.command()
@click.option("--changes", type=click.IntRange(min=10), default=500, show_default=True, help="How many of each kind.")
def main(*, changes: int) -> None:
    """Measure how long a change takes until the last of four sidecars serves it."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.status("measuring"):
        results = [measured.entry() for measured in uvloop.run(_run(changes))]
    _FILE.parent.mkdir(parents=True, exist_ok=True)
    _FILE.write_text(json.dumps(results, indent=2) + "\n")
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("until the last of four sidecars serves it, ms", no_wrap=True)
    for column in ("changes", "p50", "p90", "p99", "max", "goal of p99"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in results:
        figures = [f"{entry[name]:.1f}" for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
        verdict = {True: " [green]met[/]", False: " [red]missed[/]"}.get(entry.get("met"), "")
        goal = f"{entry['goal_ms']:g}{verdict}" if "goal_ms" in entry else ""
        table.add_row(entry["name"], str(entry["changes"]), *figures, goal)
    console.print(table)
    console.print(f"written to {_FILE}")


if __name__ == "__main__":
    main()
