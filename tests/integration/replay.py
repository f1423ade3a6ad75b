"""Replays a shop's orders through a sidecar: every invoice reserves its lines and commits, every cancellation returns them.

`python -m tests.integration.replay FILE --address HOST:PORT` takes a file in the UCI Online Retail format. Each step has a
request_id made of the invoice's number, so a run that was killed is simply run again, within a day, and ends the same. At
the end the stock of every product is compared with what the file says it should be; exit code 1 when one differs.
"""

import asyncio
import csv
import gzip
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import click
import grpc
import uvloop

from cache_sidecar.importer import online_retail
from cache_sidecar.importer.records import Refused
from cache_sidecar.v1 import cache_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import ReservationItem
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub

# Names the request_ids; never changes.
_NAMESPACE = UUID("0b1f4c52-6c2d-5b0a-9a5e-5f9d3c1e7a11")
# Products that one reservation may have.
MAX_ITEMS = 1000
BATCH = 500
DEADLINE = 30.0


@dataclass
class Invoice:
    """What one invoice does to the stock; pieces by product."""

    number: str
    sold: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    "By a cancellation."
    lost: Counter[str] = field(default_factory=Counter)
    "Negative lines of what is no cancellation: the warehouse wrote them off."


def invoices(file: Path, limit: int | None = None) -> list[Invoice]:
    """Returns the invoices of a file, plain or gzip, in its order, or the first so many of them.

    Lines without a product behind them are left out. The lines of an invoice stand together.
    """
    found: dict[str, Invoice] = {}
    for row in _rows(file):
        try:
            product_id = online_retail.stock_code(row["StockCode"])
        except Refused:
            continue
        number, quantity = row["InvoiceNo"], int(row["Quantity"])
        if len(found) == limit and number not in found:
            break
        invoice = found.setdefault(number, Invoice(number))
        kind = invoice.returned if number.startswith("C") else invoice.sold if quantity > 0 else invoice.lost
        kind[product_id] += abs(quantity)
    return list(found.values())


def _rows(file: Path) -> Iterator[dict[str, str]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def start_of(replayed: Iterable[Invoice]) -> Counter[str]:
    """Returns the stock to begin with: enough for every sale, whatever order they come in."""
    start: Counter[str] = Counter()
    for invoice in replayed:
        # Not `+=`, which drops what is 0.
        for quantities in (invoice.sold, invoice.lost, dict.fromkeys(invoice.returned, 0)):
            start.update(quantities)
    return start


def end_of(replayed: Iterable[Invoice]) -> dict[str, int]:
    """Returns the stock there has to be at the end: of what was there only what came back."""
    replayed = list(replayed)
    end = dict.fromkeys(start_of(replayed), 0)
    for invoice in replayed:
        for product_id, quantity in invoice.returned.items():
            end[product_id] += quantity
    return end


class Replay:
    """One run against one sidecar."""

    def __init__(self, channel: grpc.aio.Channel, *, run: str, in_flight: int, tell: Callable[[str], None]) -> None:
        self._calls: Any = InventoryServiceStub(channel)
        self._run = run
        self._slots = asyncio.Semaphore(in_flight)
        self._tell = tell
        self.repeats = 0

    async def replay(self, replayed: list[Invoice]) -> list[str]:
        """Does it all, and returns a line for each product whose stock is not what it has to be."""
        start = start_of(replayed)
        await self._all(self._set(product_id, quantity) for product_id, quantity in start.items())
        self._tell(f"stocked {len(start)}")
        done = 0
        for page in _pages(replayed, 20):
            await self._all(self._book(invoice) for invoice in page)
            done += len(page)
            self._tell(f"booked {done}")
        return await self._differences(end_of(replayed))

    async def _all(self, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        async def one(step: Coroutine[Any, Any, None]) -> None:
            async with self._slots:
                await step

        await asyncio.gather(*(one(step) for step in work))

    async def _set(self, product_id: str, quantity: int) -> None:
        await self._call(
            "SetInventory",
            pb.SetInventoryRequest(product_id=product_id, available=quantity, request_id=self._id("set", product_id)),
        )

    async def _book(self, invoice: Invoice) -> None:
        for number, page in enumerate(_pages(sorted(invoice.sold.items()), MAX_ITEMS)):
            await self._sell(invoice.number, number, dict(page))
        for kind, quantities, sign in (("returned", invoice.returned, 1), ("written off", invoice.lost, -1)):
            for product_id, quantity in sorted(quantities.items()):
                request = pb.AdjustInventoryRequest(
                    product_id=product_id,
                    delta=sign * quantity,
                    reason=f"{kind} by {invoice.number}",
                    request_id=self._id(kind, invoice.number, product_id),
                )
                await self._call("AdjustInventory", request)

    async def _sell(self, number: str, page: int, quantities: Mapping[str, int]) -> None:
        request = pb.ReserveInventoryRequest(
            items=[ReservationItem(product_id=id, quantity=quantity) for id, quantity in quantities.items()],
            user_id=f"invoice {number}",
            request_id=self._id("reserve", number, page),
        )
        reserved = await self._call("ReserveInventory", request)
        await self._call(
            "CommitReservation",
            pb.CommitReservationRequest(
                reservation_id=reserved.reservation.reservation_id, request_id=self._id("commit", number, page)
            ),
        )

    async def _differences(self, wanted: Mapping[str, int]) -> list[str]:
        found: dict[str, tuple[int, int]] = {}
        for page in _pages(list(wanted), BATCH):
            request = pb.BatchGetInventoryRequest(product_ids=page, options=cache_pb2.ReadOptions(bypass=True))
            reply = await self._call("BatchGetInventory", request)
            found |= {one.product_id: (one.available, one.reserved) for one in reply.inventories}
        return [f"{id}: {found.get(id)}, not {(end, 0)}" for id, end in wanted.items() if found.get(id) != (end, 0)]

    async def _call(self, method: str, request: Any) -> Any:
        """Calls until there is an answer: every step may be repeated."""
        while True:
            try:
                return await getattr(self._calls, method)(request, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                self.repeats += 1
                await asyncio.sleep(0.2)

    def _id(self, *parts: object) -> str:
        return str(uuid5(_NAMESPACE, "|".join(map(str, (self._run, *parts)))))


def _pages(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="The sidecar, host:port.")
@click.option("--invoices", "limit", type=click.IntRange(min=1), help="Only the first so many; all if not given.")
@click.option("--run", default="online-retail", show_default=True, help="Names the run; another name begins anew.")
@click.option("--in-flight", default=16, show_default=True, type=click.IntRange(1, 1000), help="Invoices at once.")
def main(file: Path, address: str, limit: int | None, run: str, in_flight: int) -> None:
    """Replay the orders of FILE."""
    replayed = invoices(file, limit)
    lines = sum(len(one.sold) + len(one.returned) + len(one.lost) for one in replayed)
    click.echo(f"{len(replayed)} invoices, {lines} changes of stock")

    async def replay() -> list[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            return await Replay(channel, run=run, in_flight=in_flight, tell=click.echo).replay(replayed)

    wrong = uvloop.run(replay())
    for line in wrong[:20]:
        click.echo(line, err=True)
    click.echo(f"{len(end_of(replayed)) - len(wrong)} stocks as the file says, {len(wrong)} not")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
