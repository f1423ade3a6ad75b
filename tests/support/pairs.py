"""Every method that changes a resource, each with a plain model of what it does, which uses none of the product's code.

A model is a function from a state to the possible next states, each with the reply that the caller gets. States and replies are
tuples, so that they can be compared. Etags are compared by which of them are equal.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from grpc.aio import AioRpcError

from cache_sidecar.store.connection import Connection as StoreConnection
from cache_sidecar.v1 import admin_service_pb2, admin_service_pb2_grpc
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.support.customers import Customer, new_request
from tests.support.interleaving import Actor, Connection, Held
from tests.support.launch import Sidecar
from tests.support.shop import refusal
from tests.support.stockroom import Stockroom


class Told(NamedTuple):
    """A reply, as far as it is compared."""

    what: Hashable
    etag: Hashable = None
    "Of the resource; in a model, what it comes from: `before`, or the name of a call."


def refused(reason: str) -> Told:
    """Returns the reply of a refused call."""
    return Told(("refused", reason))


Next = Sequence[tuple[Any, Told]]
"""The possible next states, each with the caller's reply."""


class Op(NamedTuple):
    """A call."""

    name: str
    call: Callable[[Any, "Through"], Awaitable[Any]]
    "Makes the call in a scene, and returns its reply."
    model: Callable[[Any, str], Next]
    "Given the state and the name of the call, `a` or `b`."
    read: Callable[[Any, Any, str], Told]
    "Reads a reply, given the scene and the name of the call."
    is_sql: bool = False
    "Whether another program does it in SQL, so that no sidecar publishes it."


class Through:
    """A sidecar and its clients."""

    def __init__(self, sidecar: Sidecar, watching: psycopg.AsyncConnection[Any], others: StoreConnection) -> None:
        assert sidecar.app is not None
        self.held = Held(sidecar.app)
        self.actor: Actor
        self.watching = watching
        self.repeats = ""
        "The request_id of the call, if it is made twice."
        self._others = others
        self.customer = Customer(sidecar)
        self.stock = Stockroom(sidecar.channel)
        self.products: Any = sidecar.stub(ProductServiceStub)
        self._admin: Any = sidecar.stub(admin_service_pb2_grpc.AdminServiceStub)

    def request_id(self) -> str:
        """Returns the request_id of a call."""
        return self.repeats or new_request()

    async def sql(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Runs SQL as another program, on a connection of its own."""
        return await work(Connection(self._others, self.actor))

    async def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Queries PostgreSQL directly."""
        cursor = await self.watching.execute(query, parameters)
        return await cursor.fetchall()

    async def forget(self, dataset: str, ids: Sequence[str]) -> None:
        """Publishes a change, as the relay does after one by another program."""
        await self._admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset=dataset, ids=ids))


class Resource(ABC):
    """A kind of resource."""

    ops: Mapping[str, Op]
    starts: Mapping[str, Collection[str]]
    "The initial states, each with the calls that meet in it."
    is_in_memory = False
    "Whether sidecars keep it in memory."

    @abstractmethod
    async def scene(self, start: str, ops: Collection[str], through: Through) -> Any:
        """Creates one, with what some calls need."""

    @abstractmethod
    def model(self, start: str, ops: Collection[str]) -> Any:
        """Returns the state of a new one."""

    @abstractmethod
    async def stored(self, scene: Any, through: Through) -> Any:
        """Returns what PostgreSQL holds, to be compared with what sidecars show."""

    @abstractmethod
    async def seen(self, scene: Any, through: Through) -> tuple[Any, Hashable]:
        """Returns what a sidecar shows, and the etag."""

    @abstractmethod
    def shown(self, state: Any) -> tuple[Any, Hashable]:
        """Returns what a sidecar must show of a state, and which call its etag comes from."""

    @abstractmethod
    def etag(self, scene: Any) -> Hashable:
        """Returns the etag at the beginning."""

    @abstractmethod
    async def forget(self, scene: Any, through: Through) -> None:
        """Removes it from all caches."""


def pattern(etags: Sequence[Hashable]) -> tuple[int, ...]:
    """Returns which of them are equal."""
    return tuple(etags.index(etag) for etag in etags)


class Outcome(NamedTuple):
    """The outcome of two calls."""

    told: tuple[Hashable, Hashable]
    shown: Hashable
    etags: tuple[int, ...]
    "Which etags are equal: the initial one, those in the two replies, and the one that is shown."


async def outcome(op: Op, scene: Any, through: Through) -> Any:
    """Makes a call and returns its reply, or its refusal."""
    try:
        return await op.call(scene, through)
    except AioRpcError as error:
        return refused(refusal(error).reason)


def once(resource: Resource, start: str, op: Op) -> set[Outcome]:
    """Returns what a call and its repeat lead to: what one of them does. A session that both are told of is the later one's."""
    found = set()
    for by in "ab":
        for state, told in op.model(resource.model(start, {op.name}), by):
            shown, etag = resource.shown(state)
            found.add(Outcome((told.what, told.what), shown, pattern(["before", told.etag, told.etag, etag])))
    return found


def serial(resource: Resource, start: str, calls: Sequence[tuple[Op, str]]) -> set[Outcome]:
    """Returns the possible outcomes of calls made one after the other."""
    states: list[tuple[Any, dict[str, Told]]] = [(resource.model(start, {op.name for op, _ in calls}), {})]
    for op, by in calls:
        states = [(then, told | {by: reply}) for state, told in states for then, reply in op.model(state, by)]
    found = set()
    for state, told in states:
        shown, etag = resource.shown(state)
        etags = pattern(["before", told["a"].etag, told["b"].etag, etag])
        found.add(Outcome((told["a"].what, told["b"].what), shown, etags))
    return found
