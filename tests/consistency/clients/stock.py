"""Clients that reserve, buy, release and count stock, through any sidecar."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
from google.protobuf.text_format import MessageToString

from cache_sidecar.v1 import inventory_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.inventory_pb2 import Inventory
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.consistency.load import Load, Outcome, read_of
from tests.consistency.rulebook import CONTENDED, OWNED
from tests.consistency.rules.pieces import COMMITTED, EXPIRED, RELEASED, Stored
from tests.support.stockroom import reserving

DATASET = "inventory"
STOCK = (*CONTENDED, *OWNED)
# Buckets that the contended stocks begin with.
BUCKETS = (1, 4, 2, 8, 1, 4)
# Seconds that a client waits between two calls, on average.
PAUSE = 0.2
# Seconds that a reservation holds: most for longer than the run, the others until the relay sees to it.
LONG, SHORT = 86_400.0, (2.0, 6.0)
# Reservations a client has in hand before it ends some.
IN_HAND = 4
# Requests that are remembered, to be repeated, by each client.
REPEATED = 30
_STATES = {
    inventory_pb2.RESERVATION_STATE_COMMITTED: COMMITTED,
    inventory_pb2.RESERVATION_STATE_RELEASED: RELEASED,
    inventory_pb2.RESERVATION_STATE_EXPIRED: EXPIRED,
}
_INSERT = """
    INSERT INTO cache_sidecar.inventory (product_id, bucket, buckets, available)
    SELECT %(id)s, bucket, %(buckets)s, %(stock)s / %(buckets)s + (bucket < %(stock)s %% %(buckets)s)::int
    FROM generate_series(0, %(buckets)s - 1) AS bucket
"""
_RESERVATIONS = """
    SELECT reservation_id::text, state, product_id, sum(quantity)
    FROM cache_sidecar.reservations JOIN cache_sidecar.reservation_items USING (reservation_id)
    WHERE reservation_id = ANY(%s) GROUP BY 1, 2, 3
"""


def id_of(product: int) -> str:
    """Returns the id of a product that has a stock."""
    return f"stock-{product:02}"


async def make_stock(dsn: str) -> None:
    """Inserts every stock, in rows as the client's SetInventory would."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for product, stock in enumerate(STOCK):
            buckets = BUCKETS[product] if product < len(BUCKETS) else 1
            await connection.execute(_INSERT, {"id": id_of(product), "buckets": buckets, "stock": stock})


class StockClient:
    """A shop's checkout; it may own a product that nobody else changes."""

    def __init__(
        self, load: Load, channels: Mapping[int, grpc.aio.Channel], chance: random.Random, *, owns: int | None = None
    ) -> None:
        self._load = load
        self._chance = chance
        self._owned = owns
        self._held: list[str] = []
        self._requests: list[tuple[str, Any]] = []
        "Reservations that were granted, to be asked for again."
        self._stubs: dict[int, Any] = {
            sidecar: InventoryServiceStub(channel)  # type: ignore[no-untyped-call]
            for sidecar, channel in channels.items()
        }
        names = ("ReserveInventory", "CommitReservation", "ReleaseReservation", "AdjustInventory", "SetInventory")
        self._methods = {name: [getattr(self._stubs[sidecar], name) for sidecar in sorted(channels)] for name in names}

    async def run(self) -> None:
        """Calls until it is stopped."""
        chance, load = self._chance, self._load
        while await load.pause(chance.expovariate(1 / PAUSE)):
            kind = chance.random()
            if kind < 0.35:
                await self.read(range(len(STOCK)), chance.choice(load.busy))
            elif kind < 0.45:
                await self._adjust()
            elif kind < 0.5:
                await self._spread()
            elif kind < 0.55:
                await self._repeat()
            elif self._held and (len(self._held) >= IN_HAND or kind < 0.75):
                await self._end(self._held.pop(chance.randrange(len(self._held))))
            else:
                await self._reserve()

    # Reads

    async def read(self, products: Sequence[int], sidecar: int, *, bypass: bool = False) -> dict[int, Any]:
        """Reads some stocks, and returns where each came from."""
        options = ReadOptions(bypass=True) if bypass else None
        request = pb.BatchGetInventoryRequest(product_ids=map(id_of, products), options=options)
        outcome = await self._load.call(DATASET, sidecar, self._stubs[sidecar].BatchGetInventory, request)
        if outcome.reply is None:
            return {}
        reply = outcome.reply
        parts = zip(reply.inventories, reply.inventory_caches, strict=True)
        found = {stock.product_id: (stock, cache) for stock, cache in parts}
        for product in products:
            self._took(outcome, product, *found.get(id_of(product), (None, reply.cache)))
        return {product: found[id_of(product)][1] for product in products if id_of(product) in found}

    async def versions(self, sidecar: int) -> dict[int, int]:
        """Returns the version of every stock that a sidecar shows, and does not mark stale."""
        return await self._versions(sidecar)

    async def stored(self) -> dict[int, int]:
        """Returns the version of every stock in PostgreSQL; nothing when it cannot be read now."""
        return await self._versions(self._load.busy[0], bypass=True)

    async def _versions(self, sidecar: int, *, bypass: bool = False) -> dict[int, int]:
        found = await self.read(range(len(STOCK)), sidecar, bypass=bypass)
        return {product: cache.version for product, cache in found.items() if not cache.stale}

    async def _read_store(self, product: int) -> Outcome:
        """Reads a stock from PostgreSQL."""
        sidecar = self._chance.choice(self._load.busy)
        request = pb.GetInventoryRequest(product_id=id_of(product), options=ReadOptions(bypass=True))
        outcome = await self._load.call(DATASET, sidecar, self._stubs[sidecar].GetInventory, request)
        if outcome.reply is not None:
            self._took(outcome, product, outcome.reply.inventory, outcome.reply.cache)
        return outcome

    def _took(self, outcome: Outcome, product: int, stock: Inventory | None, cache: Any) -> None:
        version = 0 if stock is None else cache.version
        state = None if stock is None else (stock.available, stock.reserved, stock.bucket_count)
        read = read_of(outcome, product, version, cache, state)
        outcome.tally.took(stale=cache.stale, behind=self._load.rules.stock.read(read, replied=outcome.replied))

    # Reservations

    async def _reserve(self) -> None:
        chance, pieces = self._chance, self._load.rules.pieces
        hold = chance.uniform(*SHORT) if chance.random() < 0.25 else LONG
        products = [self._owned] if self._owned is not None else chance.sample(range(len(CONTENDED)), chance.choice((1, 1, 2)))
        wanted = {product: chance.randint(1, 2) for product in products}
        request = reserving({id_of(product): quantity for product, quantity in wanted.items()}, hold=hold)
        outcome = await self._write("ReserveInventory", request, products)
        if outcome.reply is None:
            return
        id = outcome.reply.reservation.reservation_id
        pieces.granted(id, wanted, called=outcome.called, hold=hold, at=outcome.replied)
        pieces.replied(request.request_id, MessageToString(outcome.reply, as_one_line=True))
        self._requests.append(("ReserveInventory", request))
        del self._requests[:-REPEATED]
        if hold == LONG or chance.random() < 0.5:
            self._held.append(id)

    async def _end(self, id: str) -> None:
        """Sells what a reservation holds, or gives it back."""
        pieces = self._load.rules.pieces
        if self._chance.random() < 0.4:
            method, request = "CommitReservation", pb.CommitReservationRequest(reservation_id=id, request_id=str(uuid4()))
        else:
            method, request = "ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=id, request_id=str(uuid4()))
            pieces.ending(id)
        outcome = await self._write(method, request, [] if self._owned is None else [self._owned])
        if outcome.reply is not None:
            pieces.ended(id, _STATES[outcome.reply.reservation.state])
        elif outcome.code is grpc.StatusCode.FAILED_PRECONDITION:
            pieces.over_already(id, EXPIRED, replied=outcome.replied)
        else:
            self._load.rules.log.add(DATASET, "lost", reservation=id, status=outcome.code.name)

    async def _repeat(self) -> None:
        """Asks again for what was granted some time ago."""
        if self._requests:
            method, request = self._chance.choice(self._requests)
            outcome = await self._load.until_known(DATASET, self._methods[method], request, self._chance)
            told = outcome.code.name if outcome.reply is None else MessageToString(outcome.reply, as_one_line=True)
            self._load.rules.pieces.replied(request.request_id, told)

    # Stock

    async def _adjust(self) -> None:
        chance, pieces = self._chance, self._load.rules.pieces
        product = chance.randrange(len(CONTENDED)) if self._owned is None else self._owned
        delta = chance.choice((1, 2, 3, 5, -1))
        pieces.adjusting(product, delta)
        request = pb.AdjustInventoryRequest(product_id=id_of(product), delta=delta, reason="counted", request_id=str(uuid4()))
        outcome = await self._write("AdjustInventory", request, [product])
        if outcome.reply is not None:
            pieces.adjusted_by(product, delta)
        else:
            pieces.not_adjusted(product, delta)

    async def _spread(self) -> None:
        """Spreads a stock over another number of rows, and leaves it as large as it is: who changed it since makes that fail."""
        if self._owned is not None:
            return
        product = self._chance.randrange(len(CONTENDED))
        read = await self._read_store(product)
        if read.reply is None:
            return
        stock = read.reply.inventory
        request = pb.SetInventoryRequest(
            product_id=stock.product_id,
            available=stock.available,
            etag=stock.etag,
            bucket_count=self._chance.choice((1, 2, 4, 8)),
            request_id=str(uuid4()),
        )
        await self._write("SetInventory", request, [product])

    async def _write(self, method: str, request: Any, products: Sequence[int]) -> Outcome:
        """Changes stocks; what is owned is then read from PostgreSQL, and has to be read from everywhere within the bound."""
        rules, sidecar = self._load.rules, self._chance.choice(self._load.busy)
        outcome = await self._load.until_known(DATASET, self._methods[method], request, self._chance, first=sidecar)
        if self._owned is not None and outcome.reply is not None:
            streams = rules.begun(DATASET)
            stored = await self._read_store(self._owned)
            if stored.reply is not None:
                version = stored.reply.cache.version
                rules.stock.acknowledged(self._owned, version, **outcome.acknowledged() | {"at": stored.replied})
                for stream in streams:
                    stream.acknowledged(self._owned, version)
            await asyncio.gather(*(self.read([self._owned], one) for one in self._load.busy))
        return outcome


class Auditor:
    """Compares what is known of reservations with PostgreSQL, so that those that are over need not be remembered."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def run(self) -> None:
        """Looks from time to time."""
        pieces = self._load.rules.pieces
        while await self._load.pause(1.0):
            pieces.passed(time.monotonic())
            if ids := pieces.over(1000):
                try:
                    async with await psycopg.AsyncConnection.connect(self._load.dsn, autocommit=True) as connection:
                        pieces.audited(await _stored(connection, ids))
                except psycopg.OperationalError:
                    continue

    async def at_rest(self, *, until: float) -> None:
        """Compares everything when nothing is under way, and the relay had until a moment to see to what is due."""
        pieces = self._load.rules.pieces
        async with await psycopg.AsyncConnection.connect(self._load.dsn, autocommit=True) as connection:
            due = "SELECT count(*) FROM cache_sidecar.reservations WHERE state = 'held' AND expire_time < now() + interval '1 hour'"
            while time.monotonic() < until and await _number(connection, due):
                await asyncio.sleep(0.2)
            pieces.passed(time.monotonic())
            cursor = await connection.execute(
                "SELECT product_id, sum(available)::bigint, sum(reserved)::bigint FROM cache_sidecar.inventory GROUP BY 1"
            )
            rows = {id: (int(available), int(reserved)) for id, available, reserved in await cursor.fetchall()}
            stock = {product: rows.get(id_of(product), (0, 0)) for product in range(len(STOCK))}
            found = await _stored(connection, pieces.held())
            count = await _number(connection, "SELECT count(*) FROM cache_sidecar.reservations")
            pieces.at_rest(stock, found, reservations=count)


async def _number(connection: psycopg.AsyncConnection[Any], statement: Any) -> int:
    (number,) = await (await connection.execute(statement)).fetchone() or (0,)
    return int(number)


async def _stored(connection: psycopg.AsyncConnection[Any], ids: Sequence[str]) -> dict[str, Stored]:
    cursor = await connection.execute(_RESERVATIONS, [[UUID(id) for id in ids]])
    found: dict[str, Stored] = {}
    for id, state, product_id, quantity in await cursor.fetchall():
        stored = found.setdefault(id, Stored(state, {}))
        found[id] = Stored(state, {**stored.pieces, int(product_id.removeprefix("stock-")): int(quantity)})
    return found
