"""Callers of one sidecar during an outage: the replies, latencies, and acknowledged writes."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import grpc

from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.support.customers import Customer, item, lines
from tests.support.launch import Sidecar
from tests.support.shop import refusal

T = TypeVar("T")
WARM, CART, SESSION = "warm reads", "cart writes", "session writes"
KINDS = (WARM, CART, SESSION)
# Callers of each kind, and seconds that each waits between two calls.
CALLERS = {WARM: 4, CART: 2, SESSION: 1}
PAUSES = {WARM: 0.002, CART: 0.01, SESSION: 0.02}
# Deadline of a call in seconds: longer than anything may take on a busy machine.
PATIENCE = 15.0
# Lines of a cart before the next one is begun.
LINES = 40
# How calls are refused by a sidecar that cannot serve them now.
REFUSALS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def answered(call: Callable[[], Awaitable[T]], *, seconds: float = 60.0) -> T:
    """Makes a call that is not part of the load until it is no longer refused, for so many seconds.

    On a busy machine, the nodes of a cluster may take each other for dead, and a breaker may open, without any outage of a test's.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in REFUSALS or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


@dataclass
class Tally:
    """The calls of one kind in one phase."""

    latencies: list[float] = field(default_factory=list)
    "Seconds of each call, whatever its outcome."
    codes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    "The calls that failed."
    without_retry_info: int = 0
    "Of these, those without RetryInfo."
    first_failure: float = math.inf
    "When the first of them did, in seconds since the phase began."

    @property
    def error_rate(self) -> float:
        """The share of calls that failed, from 0 to 1."""
        return self.codes.total() / max(1, len(self.latencies))

    @property
    def p99(self) -> float:
        """Seconds in which 99 % of the calls were answered."""
        ordered = sorted(self.latencies)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


@dataclass
class Acknowledged:
    """The acknowledged writes."""

    carts: dict[str, set[str]] = field(default_factory=dict)
    "The products put into each cart."
    sessions: list[str] = field(default_factory=list)


class Load:
    """Reads of products that are cached, changes of carts, new sessions."""

    callers: Mapping[str, int] = CALLERS
    pauses: Mapping[str, float] = PAUSES

    def __init__(self, sidecar: Sidecar, warm: list[str]) -> None:
        self._customer = Customer(sidecar)
        self._products = ProductServiceStub(sidecar.channel)  # type: ignore[no-untyped-call]
        self._warm = warm
        self.phases: dict[str, dict[str, Tally]] = {}
        "Tallies by phase and kind."
        self._phase = ""
        self._began = 0.0
        self.acknowledged = Acknowledged()

    def begin(self, phase: str) -> None:
        """Counts replies from now on under the name of a phase."""
        self.phases.pop(phase, None)
        self.resume(phase)

    def resume(self, phase: str) -> None:
        """Counts further calls under the name of a phase."""
        self._phase = phase
        self._began = time.monotonic()
        self.phases.setdefault(phase, {kind: Tally() for kind in self.callers})

    def says_something(self) -> bool:
        """Whether, of each kind, a call was answered that began in this phase: each caller has one under way when it begins."""
        return all(len(tally.latencies) > self.callers[kind] for kind, tally in self.phases[self._phase].items())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Calls as long as the body runs. Calls under way at its end are waited for; then it may run again."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(work(stop)) for kind, work in self._work().items() for _ in range(self.callers[kind])]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def _work(self) -> dict[str, Callable[[asyncio.Event], Coroutine[Any, Any, None]]]:
        """Returns what a caller of each kind does until it is stopped."""
        return {WARM: self._read, CART: self._fill_cart, SESSION: self._log_in}

    async def _read(self, stop: asyncio.Event) -> None:
        for number in count():
            if stop.is_set():
                return
            request = products.GetProductRequest(product_id=self._warm[number * 7 % len(self._warm)])
            await self._timed(WARM, self._products.GetProduct(request, timeout=PATIENCE))
            await asyncio.sleep(self.pauses[WARM])

    async def _fill_cart(self, stop: asyncio.Event) -> None:
        for number in count():
            if stop.is_set():
                return
            if number % LINES == 0:
                user = f"user-{uuid4().hex[:12]}"
            product = f"line-{number}"
            if await self._timed(CART, self._customer.add(user, item(product))):
                self.acknowledged.carts.setdefault(user, set()).add(product)
            await asyncio.sleep(self.pauses[CART])

    async def _log_in(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            session = await self._timed(SESSION, self._customer.create("somebody"))
            if session:
                self.acknowledged.sessions.append(str(session))
            await asyncio.sleep(self.pauses[SESSION])

    async def _timed(self, kind: str, call: Awaitable[object]) -> object | None:
        began = time.monotonic()
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            self._failed(kind, error)
            return None
        finally:
            self.phases[self._phase][kind].latencies.append(time.monotonic() - began)

    def _failed(self, kind: str, error: grpc.aio.AioRpcError) -> None:
        tally = self.phases[self._phase][kind]
        tally.codes[error.code()] += 1
        tally.without_retry_info += refusal(error).retry_after is None
        tally.first_failure = min(tally.first_failure, time.monotonic() - self._began)

    async def lost(self) -> list[str]:
        """Returns acknowledged writes that are missing in PostgreSQL or in the sidecar's replies."""
        missing = []
        for user, wanted in self.acknowledged.carts.items():
            for bypass in (False, True):
                found = lines(await answered(partial(self._customer.cart, user, bypass=bypass)))
                missing += [f"{product} of {user}" for product in wanted - found.keys()]
        for session in self.acknowledged.sessions:
            try:
                await answered(partial(self._customer.session, session))
            except grpc.aio.AioRpcError as error:
                missing.append(f"a session: {error.code()}")
        return missing
