"""The references for carts: a program that stores carts directly, without a sidecar.

Runs as a process, `python -m tests.bench.direct_carts redis|postgres JOB.json`, with the protocol of direct.py.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import uvloop
from psycopg.types.json import Jsonb
from redis.asyncio.cluster import ClusterNode, RedisCluster

from cache_sidecar.config.settings import split_address
from cache_sidecar.tiers.redis.codec import SLIDING_HEADER
from cache_sidecar.v1.cart_service_pb2 import AddCartItemRequest, AddCartItemResponse, GetCartResponse
from tests.bench import direct
from tests.bench.direct import WORKERS, Read

_LOCK = "SELECT items, version FROM cache_sidecar.carts WHERE user_id = %s FOR UPDATE"
_INSERT = "INSERT INTO cache_sidecar.carts (user_id, items) VALUES (%(user_id)s, %(items)s) RETURNING update_time, version"
_UPDATE = """UPDATE cache_sidecar.carts SET items = %(items)s, update_time = now() WHERE user_id = %(user_id)s
             RETURNING update_time, version"""
_LEDGER = """INSERT INTO cache_sidecar.requests (scope, request_id, method, fingerprint, reply, ids, versions)
             VALUES (%s, %s, 'AddCartItemRequest', %s, %s, %s, %s)"""


async def _redis_reads(addresses: Sequence[str]) -> list[Read]:
    client = await RedisCluster(startup_nodes=[ClusterNode(*split_address(address)) for address in addresses])

    async def read(key: str) -> object:
        record = await client.get(key)
        assert isinstance(record, bytes), f"{key} is not in Redis"
        return GetCartResponse.FromString(record[SLIDING_HEADER:])

    return [read] * WORKERS


async def _postgres_adds(dsn: str) -> list[Read]:
    """Returns a function with the writes of AddCartItem: the cart with its version, the outbox row (by trigger), the ledger."""

    async def adder() -> Read:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)

        async def add(key: str) -> object:
            user_id, product_id = key.split(" ")
            return await _add(connection, user_id, product_id)

        return add

    return [await adder() for _ in range(WORKERS)]


async def _add(connection: psycopg.AsyncConnection[Any], user_id: str, product_id: str) -> bytes:
    request = AddCartItemRequest(user_id=user_id, request_id=str(uuid4()))
    async with connection.transaction():
        found = await (await connection.execute(_LOCK, [user_id])).fetchone()
        items = found[0] if found else []
        _add_to(items, product_id)
        query = _UPDATE if found else _INSERT
        written = await (await connection.execute(query, {"user_id": user_id, "items": Jsonb(items)})).fetchone()
        assert written is not None
        reply = _reply(user_id, items, written[1])
        fingerprint = sha256(request.SerializeToString(deterministic=True)).digest()
        await connection.execute(_LEDGER, [f"user {user_id}", request.request_id, fingerprint, reply, [user_id], [written[1]]])
    return reply


def _add_to(items: list[dict[str, Any]], product_id: str) -> None:
    for item in items:
        if item["product_id"] == product_id and not item["options"]:
            item["quantity"] += 1
            return
    price = {"price_units": 29, "price_nanos": 990_000_000, "currency_code": "EUR"}
    items.append({"product_id": product_id, "quantity": 1, **price, "options": {}})


def _reply(user_id: str, items: list[dict[str, Any]], version: int) -> bytes:
    reply = AddCartItemResponse()
    reply.cart.user_id, reply.cart.etag = user_id, f"{version:x}"
    for item in items:
        line = reply.cart.items.add(product_id=item["product_id"], quantity=item["quantity"])
        line.unit_price.units, line.unit_price.nanos = item["price_units"], item["price_nanos"]
        line.unit_price.currency_code = item["currency_code"]
    return reply.SerializeToString()


def _main(kind: str, job: dict[str, Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        works = runner.run(_redis_reads(job["addresses"]) if kind == "redis" else _postgres_adds(job["dsn"]))
        print("ready", flush=True)
        for line in sys.stdin:
            result = runner.run(direct.measure(works, job["keys"], float(line)))
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
