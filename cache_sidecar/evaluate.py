"""`cache-sidecar evaluate`: how good recommendations would have been, by a file of real orders.

Everything takes the path that it takes in operation: the purchases of the first days are written through a sidecar, a relay
moves them to PostgreSQL and folds them in, and the lists are what the sidecar answers. The servers are the command's own.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc

from cache_sidecar.app import App
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import InputError, SidecarError
from cache_sidecar.importer.orders import Purchases, read_purchases
from cache_sidecar.recommendations.evaluation import SIZE, Case, Figure, cases, day_of, figure, split_day
from cache_sidecar.recommendations.generator import Kind, Place
from cache_sidecar.recommendations.model import DAY, Event
from cache_sidecar.recommendations.rank import POPULAR
from cache_sidecar.relay import process
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.store.bulk import BulkProducts
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.recommendation import ModelStore
from cache_sidecar.v1 import recommendation_pb2
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from cache_sidecar.v1.user_event_pb2 import USER_EVENT_TYPE_PURCHASE_COMPLETE, UserEvent, UserEventProduct
from cache_sidecar.v1.user_event_service_pb2 import WriteUserEventsRequest
from cache_sidecar.v1.user_event_service_pb2_grpc import UserEventServiceStub

# Events in one call, and products in one event: what is beyond them in a larger basket is left out.
_BATCH, _PRODUCTS = 50, 500
# Whoever bought as a guest: the file does not say which of them are the same.
_GUEST = "guest"
# Seconds between two looks at what the relay has done, that a call may take, and between two attempts.
_LOOK_EVERY, _TIMEOUT, _PAUSE = 0.1, 30.0, 1.0
_ATTEMPTS = 5


class Report(NamedTuple):
    """The result."""

    purchases: Purchases
    split: date
    "The first day that the model was not learned from."
    learned: int
    "Purchases before it."
    seconds: float
    "To learn from them."
    figures: Sequence[Figure]
    list_ms: float
    "The median time of a call for a home page list that is in no cache."

    def lines(self) -> list[str]:
        """Returns what the command prints."""
        tests = len(self.purchases.events) - self.learned
        lines = [
            f"{self.purchases.lines:,} lines, {sum(self.purchases.left_out.values()):,} left out"
            + "".join(f", {count:,} {reason}" for reason, count in sorted(self.purchases.left_out.items())),
            f"{self.learned:,} purchases before {self.split} written and learned in {self.seconds:.1f} s; {tests:,} to predict",
            "",
            f"{'lists of 10':<24}{'baskets':>8}{'hit rate':>10}{'recall':>8}   popular: {'hit rate':>8}{'recall':>8}",
        ]
        for name, baskets, ours, popular in self.figures:
            lines.append(
                f"{name:<24}{baskets:>8,}{ours.hits:>10.3f}{ours.recall:>8.3f}{popular.hits:>20.3f}{popular.recall:>8.3f}"
            )
        return [*lines, "", f"A home page list that is in no cache takes {self.list_ms:.1f} ms (median of calls)."]


async def evaluate(source: str, *, until: date | None, lists: Path | None) -> Report:
    """Evaluates a file.

    `until` is the first day that the model is not learned from, by default after 80 % of the days. `lists` is a file for the
    lists of each customer.

    Raises InputError, and SidecarError when a server fails.
    """
    purchases = await read_purchases(source)
    split = until or split_day(purchases.events)
    if split is None:
        raise InputError(f"{source} has purchases of less than two days: there is nothing to learn from, or to predict")
    train = [event for event in purchases.events if day_of(event) < split]
    asked = cases(train, purchases.events[len(train) :])
    async with _servers() as (dsn, redis):
        settings = _settings(dsn, redis, train)
        began = time.monotonic()
        await _write(settings, _as_present(train))
        # Its successor saves what it finds at once, and publishes it.
        async with _relay(settings) as relay, ModelStore.connect(dsn) as store:
            await relay.wait(lambda: _is_published(store))
            seconds = time.monotonic() - began
            popular = [product_id for product_id, _ in await store.popular(POPULAR)]
            async with _sidecar(settings) as channel:
                calls = _Calls(channel)
                answers = {name: [await calls.ask(case) for case in of_name] for name, of_name in asked.items()}
                list_ms = median(calls.home_ms) if calls.home_ms else 0.0
                if lists is not None:
                    users = sorted({event.user_id for event in train if event.user_id})
                    await _write_lists(lists, calls, users)
    figures = [
        figure(name, of_name, [[one.product_id for one in list_] for list_ in answers[name]], popular)
        for name, of_name in asked.items()
    ]
    return Report(purchases, split, len(train), seconds, figures, list_ms)


def _settings(dsn: str, redis: str, events: Sequence[Event]) -> Settings:
    values = {
        "redis_nodes": redis,
        "redis_mode": "single",
        "postgres_catalog": dsn,
        "namespace": "evaluate",
        "listen_address": "127.0.0.1:0",
        "event_replicas": 0,
        # Patience with a busy machine: how fast it is does not matter here.
        "redis_timeout": 5.0,
        "postgres_timeout": 20.0,
        "log_level": "error",
    }
    settings = Settings.model_validate(values)
    span = int((max(event.time for event in events) - min(event.time for event in events)) / DAY) if events else 0
    # More than the limits of an operator's settings, for a file of many years.
    return settings.model_copy(update={"event_max_age": span + 3, "event_retention": span + 3})


def _as_present(events: Sequence[Event]) -> list[Event]:
    """Returns the events so many days later that the last one was yesterday: sidecars refuse what is old.

    Each has an id that follows from its invoice and its time.
    """
    if not events:
        return []
    days = (datetime.now(UTC).date() - day_of(events[-1])).days - 1
    found = []
    for event in events:
        moved = event.time + days * DAY
        digest = hashlib.sha256(event.event_id.encode()).digest()
        event_id = make_id(int(moved * 1000), random=int.from_bytes(digest) & (1 << 74) - 1)
        user_id = event.user_id or _GUEST
        found.append(event._replace(time=moved, event_id=str(event_id), user_id=user_id))
    return found


async def _write(settings: Settings, events: Sequence[Event]) -> None:
    """Writes products and purchases, and has a relay move the latter to PostgreSQL."""
    dsn = settings.database("analytics")
    products = sorted({product_id for event in events for product_id in event.product_ids})
    async with BulkProducts(dsn) as bulk:
        columns = ("product_id", "title", "price_units", "currency_code")
        await bulk.upsert(columns, [(product_id, product_id, 1, "EUR") for product_id in products])
    async with _relay(settings) as relay, _sidecar(settings) as channel, ModelStore.connect(dsn) as store:
        stub: Any = UserEventServiceStub(channel)
        for start in range(0, len(events), _BATCH):
            batch = [_message(event) for event in events[start : start + _BATCH]]
            reply = await _call(stub.WriteUserEvents, WriteUserEventsRequest(events=batch))
            if reply.refused_events:
                raise SidecarError(f"an event was refused: {reply.refused_events[0].message}")

        async def is_moved() -> bool:
            found = await store.event_range()
            return (found.events if found else 0) == len(events)

        await relay.wait(is_moved)


def _message(event: Event) -> UserEvent:
    return UserEvent(
        event_id=event.event_id,
        event_type=USER_EVENT_TYPE_PURCHASE_COMPLETE,
        user_id=event.user_id,
        products=[UserEventProduct(product_id=id, quantity=1) for id in event.product_ids[:_PRODUCTS]],
    )


async def _is_published(store: ModelStore) -> bool:
    found = await store.event_range()
    return await store.is_published(found.last if found else 0)


async def _call(method: Any, request: Any) -> Any:
    """Calls a sidecar, several times if it is not available. Raises SidecarError."""
    attempt = 1
    while True:
        try:
            return await method(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == _ATTEMPTS:
                raise SidecarError(f"the sidecar failed: {error.details()}") from None
        attempt += 1
        await asyncio.sleep(_PAUSE)


class _Calls:
    """Asks a sidecar for lists."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = RecommendationServiceStub(channel)
        self.home_ms: list[float] = []
        "How long each call for a home page took, in milliseconds."

    async def ask(self, case: Case) -> Sequence[recommendation_pb2.Recommendation]:
        """Returns the list of a case."""
        request = pb.GetRecommendationsRequest(user_id=case.user_id)
        if case.place is not Place.HOME_PAGE:
            request.placement = recommendation_pb2.RecommendationPlacement.Value(f"RECOMMENDATION_PLACEMENT_{case.place}")
        if case.kind is not None:
            request.model = recommendation_pb2.RecommendationModel.Value(f"RECOMMENDATION_MODEL_{case.kind}")
        if case.place is Place.SHOPPING_CART:
            request.cart_product_ids.extend(case.context)
        else:
            request.context_product_ids.extend(case.context)
        began = time.perf_counter()
        reply = await _call(self._stub.GetRecommendations, request)
        if case.place is Place.HOME_PAGE and case.kind is None:
            self.home_ms.append((time.perf_counter() - began) * 1000)
        found: Sequence[recommendation_pb2.Recommendation] = reply.recommendations
        return found


async def _write_lists(file: Path, calls: _Calls, users: Sequence[str]) -> None:
    """Writes the lists of each customer: with the same first days they are the same, whatever comes after."""
    asked = {"home": None, "discover": Kind.OTHERS_YOU_MAY_LIKE}
    lines = []
    for user_id in users:
        found = {name: await calls.ask(Case(Place.HOME_PAGE, (), user_id, kind=kind)) for name, kind in asked.items()}
        as_json = {name: [_as_json(one) for one in islice(list_, SIZE)] for name, list_ in found.items()}
        lines.append(json.dumps({"user_id": user_id, **as_json}) + "\n")
    try:
        await asyncio.to_thread(file.write_text, "".join(lines))
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None


def _as_json(one: recommendation_pb2.Recommendation) -> dict[str, object]:
    reason = recommendation_pb2.RecommendationReason.Name(one.reason).removeprefix("RECOMMENDATION_REASON_")
    # The days between the file and the present are rounded away: a sum of weights depends on them in its last digits.
    score = float(f"{one.score:.9g}")
    return {"product_id": one.product_id, "score": score, "reason": reason, "because_product_id": one.because_product_id}


@asynccontextmanager
async def _servers() -> AsyncIterator[tuple[str, str]]:
    """Starts PostgreSQL, migrated, and Valkey; returns the DSN and the address."""
    try:
        from cache_sidecar.devstack.temporary import temporary_servers  # noqa: PLC0415  # may not be installed
    except ImportError:
        raise InputError("needs servers of its own: install them with `pip install 'cache-sidecar[dev]'`") from None
    async with temporary_servers() as (dsn, redis):
        await migrate(dsn, *ROLES)
        yield dsn, redis


@asynccontextmanager
async def _sidecar(settings: Settings) -> AsyncIterator[grpc.aio.Channel]:
    app = App(settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.stop)
        await app.start()
        yield await stack.enter_async_context(grpc.aio.insecure_channel(app.server.address))


class _Relay:
    """A relay in this process."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    async def wait(self, is_done: Callable[[], Awaitable[bool]]) -> None:
        """Waits until something is done by the relay. Raises SidecarError if it ends."""
        while not await is_done():
            if self._task.done():
                raise SidecarError("the relay has ended")
            await asyncio.sleep(_LOOK_EVERY)


@asynccontextmanager
async def _relay(settings: Settings) -> AsyncIterator[_Relay]:
    telemetry.configure(level=settings.log_level, format=settings.log_format)
    stop = asyncio.Event()
    task = asyncio.create_task(process.run(settings, stop))
    try:
        yield _Relay(task)
    finally:
        stop.set()
        await task
