"""A model of one product's stock for the linearizability checker, and clients that record what they did to it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from cache_sidecar.v1 import cache_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from tests.support.linearizability import Model, Operation
from tests.support.shop import refusal
from tests.support.stockroom import Stockroom, request_id, reserving

State = tuple[int, frozenset[tuple[str, int, str]]]
"""Pieces available, and every reservation: id, pieces, state."""


class Reserve(NamedTuple):
    """The result is the reservation's id, or `refused`."""

    quantity: int


class End(NamedTuple):
    """The result is its state afterwards, or `refused` if that is not the requested one."""

    reservation_id: str
    outcome: str


class Get(NamedTuple):
    """The result is a pair: available, reserved."""


REFUSED = "refused"


def model(stock: int) -> Model[State]:
    """Returns the model of a product that begins with so many pieces."""
    return Model(start=(stock, frozenset()), step=_step)


def _step(state: State, operation: Operation) -> State | None:
    action, result = operation.action, operation.result
    if isinstance(action, Reserve):
        return _reserve(state, action, result, unknown=f"unknown {operation.call}")
    if isinstance(action, End):
        return _end(state, action, result)
    available, reservations = state
    held = sum(quantity for _, quantity, of in reservations if of == "held")
    return state if result == (available, held) else None


def _reserve(state: State, action: Reserve, result: str | None, *, unknown: str) -> State | None:
    available, reservations = state
    if result == REFUSED:
        return state if available < action.quantity else None
    if available < action.quantity:
        return None
    return available - action.quantity, reservations | {(result or unknown, action.quantity, "held")}


def _end(state: State, action: End, result: str | None) -> State | None:
    available, reservations = state
    found = [one for one in reservations if one[0] == action.reservation_id]
    if not found:
        return None
    ((id, quantity, of),) = found
    if of != "held":
        return state if result is None or (result == REFUSED) == (of != action.outcome) else None
    if result == REFUSED:
        return None
    given_back = 0 if action.outcome == "committed" else quantity
    return available + given_back, reservations - {(id, quantity, of)} | {(id, quantity, action.outcome)}


class Recorder:
    """Clients that use one product through several sidecars and record calls and replies."""

    def __init__(self, rooms: Sequence[Stockroom], product_id: str, *, seed: int, pause: float = 0.005) -> None:
        self.history: list[Operation] = []
        self.failures = 0
        "The number of calls repeated because their outcome was unknown."
        self._rooms = rooms
        self._product_id = product_id
        self._chance = random.Random(seed)
        self._pause = pause
        self._held: list[str] = []
        self._stopped = False

    def stop(self) -> None:
        """Lets the clients finish their current calls."""
        self._stopped = True

    async def client(self) -> None:
        """Does one thing after the other until it is stopped."""
        while not self._stopped:
            await self._one_thing()
            await asyncio.sleep(self._pause * self._chance.random())

    async def _one_thing(self) -> None:
        dice = self._chance.random()
        if dice < 0.2:
            await self.get(bypass=self._chance.random() < 0.5)
        elif dice < 0.6 and self._held:
            id = self._held.pop(self._chance.randrange(len(self._held)))
            await self.end(id, self._chance.choice(("released", "released", "committed")))
        else:
            id = await self.reserve(self._chance.randint(1, 2))
            if id not in {None, REFUSED}:
                # Sometimes two clients end it, and one is too late.
                self._held.extend([id, id] if self._chance.random() < 0.3 else [id])

    async def reserve(self, quantity: int) -> Any:
        """Returns the result; see `Reserve`."""
        return await self._record(
            Reserve(quantity),
            "ReserveInventory",
            reserving({self._product_id: quantity}, hold=86_400),
            lambda reply: reply.reservation.reservation_id,
        )

    async def end(self, reservation_id: str, outcome: str) -> None:
        """Commits or releases a reservation."""
        if outcome == "committed":
            await self._record(
                End(reservation_id, outcome),
                "CommitReservation",
                pb.CommitReservationRequest(reservation_id=reservation_id, request_id=request_id()),
                lambda _: outcome,
            )
        else:
            await self._record(
                End(reservation_id, outcome),
                "ReleaseReservation",
                pb.ReleaseReservationRequest(reservation_id=reservation_id, request_id=request_id()),
                lambda _: outcome,
            )

    async def get(self, *, bypass: bool) -> None:
        """Reads the stock, from PostgreSQL or through the tiers."""
        request = pb.GetInventoryRequest(product_id=self._product_id, options=cache_pb2.ReadOptions(bypass=bypass))
        await self._record(
            Get(),
            "GetInventory",
            request,
            lambda reply: (reply.inventory.available, reply.inventory.reserved),
            may_be_stale=not bypass,
        )

    async def _record(
        self, action: Any, method: str, request: Message, result: Callable[[Any], Any], *, may_be_stale: bool = False
    ) -> Any:
        loop = asyncio.get_running_loop()
        called = loop.time()
        told = await self._answer(lambda room: getattr(room.calls, method)(request, timeout=10), result)
        self.history.append(
            Operation(
                call=called,
                reply=loop.time() if told is not None else inf,
                action=action,
                result=told,
                is_read=isinstance(action, Get) or told == REFUSED,
                # Admission refuses by the last stock it has seen.
                may_be_stale=may_be_stale or (isinstance(action, Reserve) and told == REFUSED),
            )
        )
        return told

    async def _answer(self, call: Callable[[Stockroom], Awaitable[Any]], result: Callable[[Any], Any]) -> Any:
        """Asks one sidecar after the other until one answers; returns None when that takes too long."""
        for _ in range(200):
            try:
                return result(await call(self._chance.choice(self._rooms)))
            except grpc.aio.AioRpcError as error:
                why = refusal(error)
                if why.code is grpc.StatusCode.FAILED_PRECONDITION:
                    return REFUSED
                assert why.code in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                }, why
                self.failures += 1
                await asyncio.sleep(0.05)
        return None
