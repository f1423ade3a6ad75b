"""Every method that changes a resource, beside a plain model of what it does: nothing of the product's code.

A model is a function from a state to what may follow: the state after it, and what the caller is told. States and what is told
are tuples, so that they can be compared. Etags are compared by which of them are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from grpc.aio import AioRpcError

from cache_sidecar.store.connection import Connection as StoreConnection
from cache_sidecar.v1 import admin_service_pb2, admin_service_pb2_grpc
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.contract.shop import refusal
from tests.customers import Customer, new_request
from tests.interleaving import Actor, Connection, Held
from tests.sidecars import Sidecar
from tests.stockroom import Stockroom


class Told(NamedTuple):
    """What a caller is told."""

    what: Hashable
    etag: Hashable = None
    "Of the resource; in a model, who made it: `before`, or the name of a call."


def refused(reason: str) -> Told:
    """Returns that a call was refused."""
    return Told(("refused", reason))


Next = Sequence[tuple[Any, Told]]
"""The states that may follow, each with what the caller is told."""


class Op(NamedTuple):
    """A call."""

    name: str
    call: Callable[[Any, "Through"], Awaitable[Any]]
    "Makes it, for a scene, and returns the reply."
    model: Callable[[Any, str], Next]
    "Given the state and the name of the call, `a` or `b`."
    read: Callable[[Any, Any, str], Told]
    "What a reply says, given the scene and the name of the call."
    is_sql: bool = False
    "Whether another program does it, so that nobody tells Redis."


class Through:
    """A sidecar, and what is called through it."""

    def __init__(self, sidecar: Sidecar, watching: psycopg.AsyncConnection[Any], others: StoreConnection) -> None:
        assert sidecar.app is not None
        self.held = Held(sidecar.app)
        self.actor: Actor
        self.watching = watching
        self.repeats = ""
        "The request_id of what is called, if it is to be called again."
        self._others = others
        self.customer = Customer(sidecar)
        self.stock = Stockroom(sidecar.channel)
        self.products: Any = sidecar.stub(ProductServiceStub)
        self._admin: Any = sidecar.stub(admin_service_pb2_grpc.AdminServiceStub)

    def request_id(self) -> str:
        """Returns the request_id of a call."""
        return self.repeats or new_request()

    async def sql(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Does what another program does, on a connection of its own."""
        return await work(Connection(self._others, self.actor))

    async def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Asks PostgreSQL itself."""
        cursor = await self.watching.execute(query, parameters)
        return await cursor.fetchall()

    async def forget(self, dataset: str, ids: Sequence[str]) -> None:
        """Does what the relay does when another program changed something."""
        await self._admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset=dataset, ids=ids))


class Resource(ABC):
    """A kind of resource."""

    ops: Mapping[str, Op]
    starts: Mapping[str, Collection[str]]
    "How it may be at the beginning, and the calls that meet then."
    is_in_memory = False
    "Whether sidecars have it in their memory."

    @abstractmethod
    async def scene(self, start: str, ops: Collection[str], through: Through) -> Any:
        """Makes a new one, with what some calls need."""

    @abstractmethod
    def model(self, start: str, ops: Collection[str]) -> Any:
        """Returns the state of a new one."""

    @abstractmethod
    async def stored(self, scene: Any, through: Through) -> Any:
        """Returns what PostgreSQL holds, to be compared with what is shown."""

    @abstractmethod
    async def seen(self, scene: Any, through: Through) -> tuple[Any, Hashable]:
        """Returns what a sidecar shows, and the etag."""

    @abstractmethod
    def shown(self, state: Any) -> tuple[Any, Hashable]:
        """Returns what a sidecar has to show of a state, and who made the etag."""

    @abstractmethod
    def etag(self, scene: Any) -> Hashable:
        """Returns the etag at the beginning."""

    @abstractmethod
    async def forget(self, scene: Any, through: Through) -> None:
        """Drops what is cached of it."""


def pattern(etags: Sequence[Hashable]) -> tuple[int, ...]:
    """Returns which of them are the same."""
    return tuple(etags.index(etag) for etag in etags)


class Outcome(NamedTuple):
    """What two calls lead to."""

    told: tuple[Hashable, Hashable]
    shown: Hashable
    etags: tuple[int, ...]
    "Which are the same: the one at the beginning, those that the calls were told, and the one that is shown."


async def outcome(op: Op, scene: Any, through: Through) -> Any:
    """Makes a call, and returns the reply, or why it was refused."""
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
    """Returns what calls may lead to, made one after the other."""
    states: list[tuple[Any, dict[str, Told]]] = [(resource.model(start, {op.name for op, _ in calls}), {})]
    for op, by in calls:
        states = [(then, told | {by: reply}) for state, told in states for then, reply in op.model(state, by)]
    found = set()
    for state, told in states:
        shown, etag = resource.shown(state)
        etags = pattern(["before", told["a"].etag, told["b"].etag, etag])
        found.add(Outcome((told["a"].what, told["b"].what), shown, etags))
    return found
