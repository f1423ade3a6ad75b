"""The clients of a consistency run: they read and write a few hot products, and have every reply checked."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import psycopg

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.consistency.checker import Checker, Read

CALM = "calm"
# Products of a batch; most reads are in batches.
BATCH = 80
# Of the calls of a client, these are writes, and these reads of a single product.
WRITES, SINGLES = 0.08, 0.12
# A share of the writes goes to a few products, so that writers meet.
CROWDED, CROWD = 0.3, 20
# Seconds that a client waits between two calls, on average.
PAUSE = 0.15
# Changes that another program makes by SQL, per second.
SQL_RATE = 10.0
READ_SECONDS, WRITE_SECONDS = 2.0, 5.0

_SERVICE = "/cache_sidecar.v1.ProductService/"
_INSERT = """
    INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
    SELECT id, 'new', 1, 'EUR' FROM unnest(%s::text[]) AS id
"""
UPDATE = "UPDATE cache_sidecar.products SET title = 'by SQL' WHERE product_id = %s RETURNING version"
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    # What fails is counted, and not hidden by a retry.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(kw_only=True)
class Tally:
    """What happened while one fault lasted, or none."""

    seconds: float = 0.0
    calls: int = 0
    failed: int = 0
    reads: int = 0
    "Products in replies."
    stale: int = 0
    "Of those, marked stale."
    writes: int = 0
    failed_writes: int = 0
    behind: float = 0.0
    "Seconds that a read was behind what was known when it was called, at most; of those not marked stale."
    stale_behind: float = 0.0
    "The same of those marked stale."
    reasons: Counter[str] = field(default_factory=Counter)
    "Calls that failed, by status."


class Load:
    """All clients of all sidecars."""

    def __init__(
        self, checker: Checker, *, ids: Sequence[str], dsn: str, sidecars: Sequence[str], incarnations: Sequence[int]
    ) -> None:
        """`sidecars` are addresses; `incarnations` gives each one's process a number that no other one had."""
        self.ids = ids
        self.tallies: dict[str, Tally] = {}
        "What happened, by fault."
        self._checker = checker
        self._dsn = dsn
        self._sidecars = sidecars
        self._incarnations = incarnations
        self._tally = Tally()

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        """Counts what is called from now on under the name of a fault."""
        before, self._tally = self._tally, self.tallies.setdefault(fault, Tally())
        start = time.monotonic()
        try:
            yield
        finally:
            self._tally.seconds += time.monotonic() - start
            self._tally = before

    @asynccontextmanager
    async def running(self, *, clients: int, seed: int) -> AsyncIterator[None]:
        """Has so many clients call as long as the body runs. Raises what none of them expects."""
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._sql(random.Random(seed)))]
            for number in range(clients):
                sidecar = number % len(self._sidecars)
                channel = grpc.aio.insecure_channel(self._sidecars[sidecar], options=_OPTIONS)
                await opened.enter_async_context(channel)
                client = _Client(self, sidecar, channel, random.Random(seed + 1 + number))
                tasks.append(group.create_task(client.run()))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _sql(self, chance: random.Random) -> None:
        """Another program, which changes products in plain SQL."""
        while True:
            with suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    while True:
                        await asyncio.sleep(chance.expovariate(SQL_RATE))
                        await self._change(connection, chance.randrange(len(self.ids)))
            await asyncio.sleep(0.2)

    async def _change(self, connection: psycopg.AsyncConnection[Any], product: int) -> None:
        cursor = await connection.execute(UPDATE, [self.ids[product]])
        (version,) = await cursor.fetchone() or (0,)
        self._checker.committed(product, version, at=time.monotonic())

    # What the clients tell

    def incarnation(self, sidecar: int) -> int:
        """Returns the number of a sidecar's present process."""
        return self._incarnations[sidecar]

    async def counted(self, call: Awaitable[bytes]) -> tuple[bytes | None, Tally]:
        """Returns the reply to a call, or None when it failed, and where to count what it says."""
        tally = self._tally
        tally.calls += 1
        try:
            return await call, tally
        except grpc.aio.AioRpcError as error:
            tally.failed += 1
            tally.reasons[error.code().name] += 1
            return None, tally

    def took(self, tally: Tally, read: Read, *, replied: float) -> None:
        """Has a read checked and counts it."""
        behind = self._checker.read(read, replied=replied)
        tally.reads += 1
        if read.stale:
            tally.stale += 1
            tally.stale_behind = max(tally.stale_behind, behind)
        else:
            tally.behind = max(tally.behind, behind)

    def acknowledged(self, tally: Tally, product: int, version: int, *, sidecar: int) -> None:
        """Remembers a write."""
        tally.writes += 1
        self._checker.acknowledged(product, version, sidecar=sidecar, at=time.monotonic())


async def make_products(dsn: str, count: int) -> list[str]:
    """Inserts products and returns their ids."""
    ids = [f"hot-{number:04}" for number in range(count)]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(_INSERT, [ids])
    return ids


class _Client:
    """One application beside one sidecar."""

    def __init__(self, load: Load, sidecar: int, channel: grpc.aio.Channel, chance: random.Random) -> None:
        self._load = load
        self._sidecar = sidecar
        self._chance = chance
        methods = ("BatchGetProducts", "GetProduct", "UpdateProduct")
        # Bytes in and out: parsed here, after the clock was read.
        self._batch, self._get, self._update = (channel.unary_unary(_SERVICE + method) for method in methods)

    async def run(self) -> None:
        chance = self._chance
        while True:
            await asyncio.sleep(chance.expovariate(1 / PAUSE))
            kind = chance.random()
            if kind < WRITES:
                await self._write()
            elif kind < WRITES + SINGLES:
                await self._read_one(chance.randrange(len(self._load.ids)))
            else:
                await self._read_many(chance.sample(range(len(self._load.ids)), BATCH))

    async def _read_many(self, products: list[int]) -> None:
        ids = self._load.ids
        request = pb.BatchGetProductsRequest(product_ids=[ids[product] for product in products])
        reply, took = await self._asked(self._batch, request)
        if reply is None:
            return
        content = pb.BatchGetProductsResponse.FromString(reply)
        missing = set(content.missing)
        for product in products:
            if ids[product] in missing:
                took(product, 0, content.cache)
        found = [product for product in products if ids[product] not in missing]
        for product, cache in zip(found, content.product_caches, strict=True):
            took(product, cache.version, cache)

    async def _read_one(self, product: int) -> None:
        request = pb.GetProductRequest(product_id=self._load.ids[product])
        reply, took = await self._asked(self._get, request)
        if reply is not None:
            content = pb.GetProductResponse.FromString(reply)
            # The version of the content itself, whatever the metadata says.
            took(product, int(content.product.etag, 16), content.cache)

    async def _asked(self, method: Any, request: Any) -> tuple[bytes | None, Callable[[int, int, Any], None]]:
        """Calls, and returns the reply and what takes what it says of a product."""
        load, process = self._load, self._load.incarnation(self._sidecar)
        called = time.monotonic()
        reply, tally = await load.counted(method(request.SerializeToString(), timeout=READ_SECONDS))
        replied = time.monotonic()
        process = self._certain(process)

        def took(product: int, version: int, cache: Any) -> None:
            age = cache.age.seconds + cache.age.nanos / 1e9
            read = Read(process, product, called, version, age, cache.stale)
            load.took(tally, read, replied=replied)

        return reply, took

    async def _write(self) -> None:
        load, chance = self._load, self._chance
        product = chance.randrange(CROWD if chance.random() < CROWDED else len(load.ids))
        request = pb.UpdateProductRequest(
            product=Product(product_id=load.ids[product], title=f"by {self._sidecar}"), request_id=str(uuid4())
        )
        request.update_mask.paths.append("title")
        for _ in range(2):  # as a client that wants to know repeats it
            process = load.incarnation(self._sidecar)
            reply, tally = await load.counted(self._update(request.SerializeToString(), timeout=WRITE_SECONDS))
            if reply is not None:
                version = int(pb.UpdateProductResponse.FromString(reply).product.etag, 16)
                load.acknowledged(tally, product, version, sidecar=self._certain(process))
                return
            tally.failed_writes += 1
            await asyncio.sleep(0.2)

    def _certain(self, process: int) -> int:
        return process if process == self._load.incarnation(self._sidecar) else -1
