"""Replays a shop's orders: every invoice reserves its lines and commits, every cancellation returns them.

`python -m tests.replay.run FILE --address HOST:PORT` takes a file in the UCI Online Retail format and running sidecars. Each
step has a request_id derived from the invoice's number, so a killed run can be restarted within a day, with the same result.
At the end the stock of every product is compared with what the file implies; exit code 1 if one differs.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import click
import grpc
import uvloop

from cache_sidecar.v1 import cache_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import ReservationItem
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.replay.orders import Invoice, end_of, invoices, start_of

# The namespace of the request_ids; never changes.
_NAMESPACE = UUID("0b1f4c52-6c2d-5b0a-9a5e-5f9d3c1e7a11")
# Limit of products in one reservation.
MAX_ITEMS = 1000
BATCH = 500
# Invoices between two lines of progress.
PAGE = 20
DEADLINE = 30.0
_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Replay:
    """One run against some sidecars."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], *, run: str, in_flight: int, tell: Callable[[str], None]) -> None:
        self._sidecars = cycle([InventoryServiceStub(channel) for channel in channels])
        self._run = run
        self._slots = asyncio.Semaphore(in_flight)
        self._tell = tell
        self.calls = 0
        "That were answered."
        self.repeats = 0
        "Of calls that were not."

    async def replay(self, replayed: list[Invoice]) -> list[str]:
        """Replays everything, and returns a line for each product whose stock is wrong."""
        start = start_of(replayed)
        await self._all(self._set(product_id, quantity) for product_id, quantity in start.items())
        self._tell(f"stocked {len(start)}")
        done = 0
        for page in _pages(replayed, PAGE):
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
        """Calls one sidecar after the other until one replies: every step may be repeated."""
        self.calls += 1
        while True:
            try:
                return await getattr(next(self._sidecars), method)(request, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
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
@click.option("--address", "addresses", multiple=True, default=["127.0.0.1:50051"], help="A sidecar, host:port; repeatable.")
@click.option("--invoices", "limit", type=click.IntRange(min=1), help="Only the first so many; all if not given.")
@click.option("--run", default="online-retail", show_default=True, help="Names the run; another name begins anew.")
@click.option("--in-flight", default=16, show_default=True, type=click.IntRange(1, 1000), help="Invoices at once.")
def main(file: Path, addresses: Sequence[str], limit: int | None, run: str, in_flight: int) -> None:
    """Replay the orders of FILE."""
    replayed = invoices(file, limit)
    lines = sum(len(one.sold) + len(one.returned) + len(one.lost) for one in replayed)
    click.echo(f"{len(replayed)} invoices, {lines} changes of stock")

    async def replay() -> list[str]:
        channels = [grpc.aio.insecure_channel(address) for address in addresses]
        work = Replay(channels, run=run, in_flight=in_flight, tell=click.echo)
        began = time.monotonic()
        try:
            return await work.replay(replayed)
        finally:
            seconds = time.monotonic() - began
            click.echo(f"{work.calls} calls in {seconds:.0f} s, {work.calls / seconds:.0f}/s; {work.repeats} repeated")
            for channel in channels:
                await channel.close()

    wrong = uvloop.run(replay())
    for line in wrong[:20]:
        click.echo(line, err=True)
    click.echo(f"{len(end_of(replayed)) - len(wrong)} stocks as the file says, {len(wrong)} not")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
