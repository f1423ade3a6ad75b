"""Clients that read and write a few hot products, and another program that changes them in plain SQL."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import grpc
import psycopg

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.consistency.load import Load, Outcome, read_of

DATASET = "product"
# Products of a batch; most reads are in batches. And what a request may name.
BATCH = 40
LARGEST = 500
# Of the calls of a client, these are writes, and these reads of a single product.
WRITES, SINGLES = 0.08, 0.12
# A share of the writes goes to a few products, so that writers meet.
CROWDED, CROWD = 0.3, 20
# Seconds that a client waits between two calls, on average.
PAUSE = 0.2
# Changes that another program makes by SQL, per second.
SQL_RATE = 10.0

_SERVICE = "/cache_sidecar.v1.ProductService/"
_INSERT = """
    INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
    SELECT id, 'new', 1, 'EUR' FROM unnest(%s::text[]) AS id
"""
UPDATE = "UPDATE cache_sidecar.products SET title = 'by SQL' WHERE product_id = %s RETURNING version"


async def make_products(dsn: str, count: int) -> list[str]:
    """Inserts products and returns their ids."""
    ids = [f"hot-{number:04}" for number in range(count)]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(_INSERT, [ids])
    return ids


class ProductClient:
    """One application with its sidecar."""

    def __init__(self, load: Load, ids: Sequence[str], sidecar: int, channel: grpc.aio.Channel, chance: random.Random) -> None:
        self._load = load
        self._ids = ids
        self._numbers = {id: number for number, id in enumerate(ids)}
        self._sidecar = sidecar
        self._chance = chance
        methods = ("BatchGetProducts", "GetProduct", "UpdateProduct")
        # Bytes in and out: parsed here, after the clock was read.
        self._batch, self._get, self._update = (channel.unary_unary(_SERVICE + method) for method in methods)

    async def run(self) -> None:
        """Calls until it is stopped."""
        chance = self._chance
        while not self._load.is_stopping:
            await asyncio.sleep(chance.expovariate(1 / PAUSE))
            kind = chance.random()
            if kind < WRITES:
                await self._write()
            elif kind < WRITES + SINGLES:
                await self._read_one(chance.randrange(len(self._ids)))
            else:
                await self.read_some()

    async def read_some(self) -> None:
        """Reads a batch."""
        products = self._chance.sample(range(len(self._ids)), min(BATCH, len(self._ids)))
        request = pb.BatchGetProductsRequest(product_ids=[self._ids[product] for product in products])
        outcome = await self._load.call(DATASET, self._sidecar, self._batch, request.SerializeToString())
        if outcome.reply is None:
            return
        content = pb.BatchGetProductsResponse.FromString(outcome.reply)
        missing = set(content.missing)
        for product in products:
            if self._ids[product] in missing:
                self._took(outcome, product, 0, content.cache)
        found = [product for product in products if self._ids[product] not in missing]
        for product, cache in zip(found, content.product_caches, strict=True):
            self._took(outcome, product, cache.version, cache)

    async def versions(self) -> dict[int, int]:
        """Returns the version of every product that the sidecar shows, and does not mark stale."""
        found = {}
        for first in range(0, len(self._ids), LARGEST):
            request = pb.BatchGetProductsRequest(product_ids=self._ids[first : first + LARGEST])
            outcome = await self._load.call(DATASET, self._sidecar, self._batch, request.SerializeToString())
            content = pb.BatchGetProductsResponse.FromString(outcome.reply or b"")
            for product, cache in zip(content.products, content.product_caches, strict=True):
                if not cache.stale:
                    found[self._numbers[product.product_id]] = cache.version
        return found

    async def _read_one(self, product: int) -> None:
        request = pb.GetProductRequest(product_id=self._ids[product])
        outcome = await self._load.call(DATASET, self._sidecar, self._get, request.SerializeToString())
        if outcome.reply is not None:
            content = pb.GetProductResponse.FromString(outcome.reply)
            # The version of the content itself, whatever the metadata says.
            self._took(outcome, product, int(content.product.etag, 16), content.cache)

    def _took(self, outcome: Outcome, product: int, version: int, cache: Any) -> None:
        read = read_of(outcome, product, version, cache)
        behind = self._load.rules.products.read(read, replied=outcome.replied)
        outcome.tally.took(stale=cache.stale, behind=behind)

    async def _write(self) -> None:
        load, chance = self._load, self._chance
        product = chance.randrange(min(CROWD, len(self._ids)) if chance.random() < CROWDED else len(self._ids))
        request = pb.UpdateProductRequest(
            product=Product(product_id=self._ids[product], title=f"by {self._sidecar}"), request_id=str(uuid4())
        )
        request.update_mask.paths.append("title")
        streams = load.rules.begun(DATASET)
        for _ in range(2):  # repeated, as a client does whose call has an unknown outcome
            outcome = await load.call(DATASET, self._sidecar, self._update, request.SerializeToString(), is_write=True)
            if outcome.reply is not None:
                version = int(pb.UpdateProductResponse.FromString(outcome.reply).product.etag, 16)
                load.rules.products.acknowledged(product, version, **outcome.acknowledged())
                for stream in streams:
                    stream.acknowledged(product, version)
                return
            await asyncio.sleep(0.2)


class AnotherProgram:
    """Changes products in plain SQL."""

    def __init__(self, load: Load, ids: Sequence[str], chance: random.Random) -> None:
        self._load = load
        self._ids = ids
        self._chance = chance

    async def run(self) -> None:
        """Changes until it is stopped."""
        while not self._load.is_stopping:
            with suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(self._load.dsn, autocommit=True) as connection:
                    while not self._load.is_stopping:
                        await asyncio.sleep(self._chance.expovariate(SQL_RATE))
                        await self._change(connection, self._chance.randrange(len(self._ids)))
            await asyncio.sleep(0.2)

    async def _change(self, connection: psycopg.AsyncConnection[Any], product: int) -> None:
        streams = self._load.rules.begun(DATASET)
        cursor = await connection.execute(UPDATE, [self._ids[product]])
        (version,) = await cursor.fetchone() or (0,)
        self._load.rules.products.committed(product, version, at=time.monotonic())
        for stream in streams:
            stream.acknowledged(product, version)
