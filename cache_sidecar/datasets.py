"""THE list of datasets. Whatever the sidecar does with each of them is derived from its specification here.

That is: its tiers and its service (`app.py`), who hears of its changes and whom a late relay makes stale
(`tiers/coherence`), what the native engine answers, what is sampled and inspected, what AdminService counts, what the relay
passes on, and what `verify` compares. Beside it a dataset has a table in `config/policy.toml`, protos, a store and migrations.
"""

import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import StockReader
from cache_sidecar.inventory.watch import Watches
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Hit, Register
from cache_sidecar.services import cart, product, session, stock
from cache_sidecar.services.cart import CartService
from cache_sidecar.services.cart_items import Limits
from cache_sidecar.services.inventory import InventoryService
from cache_sidecar.services.product import ProductService
from cache_sidecar.services.session import SessionService
from cache_sidecar.services.shared import fast_path
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.touches import Touches
from cache_sidecar.store.cart import CartStore
from cache_sidecar.store.inventory import InventoryStore, every_row, possible_rows, product_of, row_ids
from cache_sidecar.store.pool import Database
from cache_sidecar.store.product import ProductStore
from cache_sidecar.store.reservation import MAX_GRANTS, ReservationStore
from cache_sidecar.store.session import SessionStore
from cache_sidecar.store.versions import Table
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.path.sliding import SlidingDataset
from cache_sidecar.tiers.ports import L1, InvalidationListener, Load
from cache_sidecar.v1 import (
    cart_service_pb2_grpc,
    inventory_service_pb2_grpc,
    product_service_pb2_grpc,
    session_service_pb2_grpc,
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What there is when the parts of a dataset are built."""

    settings: Settings
    clock: Clock
    policy: Callable[[], DatasetPolicy]
    "Reads the policy of this dataset, as it is now."
    database: Database
    "The database of its role; and what writes to it, and follows its changes."
    writer: Writer
    changes: Changes
    bound: Bound
    "On the size of replies."


class Service(NamedTuple):
    """A service, and what has to be done for it."""

    servicer: object
    listeners: Sequence[InvalidationListener] = ()
    "They hear of the changes that its dataset hears of, after it."
    start: Callable[[], None] | None = None
    "Called before the first call comes in."
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    "Called when no call is left, in this order, while Redis and PostgreSQL can still be reached."


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """How a dataset behaves whose every read puts off its expiry; see `tiers/path/sliding.py`."""

    joins: bool
    "Whether a read may share a load that began before it."
    remembers_over: bool = False
    "Whether PostgreSQL is not asked again at once for what it said is not there, or over."


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset, and the service that serves it."""

    name: str
    "In policy.toml, in the outbox, in the keys in Redis, and in AdminService."
    role: str
    "Which of the databases of the settings holds it: `catalog` or `user`."
    table: Table
    "Where, for whoever compares caches with it."
    is_private: bool = False
    "Whether its ids are people's: they are neither logged nor printed."

    load: Callable[[Parts], Load]
    "Returns what reads it from PostgreSQL."
    same: Same = operator.eq
    "Whether two values say the same, for shadow."
    rollout_key: Callable[[str], str] = str
    "What an id is rolled out by."
    sliding: Sliding | None = None
    "None for what expires by its age."

    memory: float = 0.0
    "Its share of `l1_max_bytes` and `l1_max_entries`, beside the others' shares; 0 for none. Hits are sampled and inspected."
    memory_of_its_own: Callable[[Parts], L1] | None = None
    "Returns memory that answers no reads, in place of a share."
    keys: Callable[[str], Iterable[str]] | None = None
    "Returns the keys in caches of what callers know by one id; None where they are the same."

    service: str
    "The full name of its service; and what registers and builds it."
    register: Register
    build: Callable[[Parts, Dataset, L1], Service]
    priority: Priority
    fast_path: Mapping[str, Callable[[Dataset], Hit]] = field(default_factory=dict)
    "By method, what answers hits from the bytes of a request, in Python."
    native: Sequence[str] = ()
    "The methods whose hits the native engine answers."


def _products(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    return Service(
        ProductService(
            dataset, store=ProductStore(parts.database), writer=parts.writer, changes=parts.changes, bound=parts.bound
        )
    )


def _stock_memory(parts: Parts) -> SoldOut:
    return SoldOut(row_ids=row_ids, clock=parts.clock, in_shadow=lambda: parts.policy().shadow)


def _inventory(parts: Parts, dataset: Dataset, memory: L1) -> Service:
    assert isinstance(memory, SoldOut)
    store, reservations = InventoryStore(parts.database), ReservationStore(parts.database)
    stocks = StockReader(dataset, row_ids=row_ids, load_whole=stock.whole_loader(store))
    grants = GrantedRequests(reservations.grants, max_grants=MAX_GRANTS, clock=parts.clock)
    watches = Watches(stocks, store)
    service = InventoryService(
        dataset,
        stocks=stocks,
        store=store,
        reservations=reservations,
        writer=parts.writer,
        gate=ReservationAdmission(stocks, memory, grants, every_row=every_row),
        watches=watches,
        clock=parts.clock,
        bound=parts.bound,
    )
    return Service(service, listeners=[watches], close=[grants.close, stocks.close])


def _sessions(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    assert isinstance(dataset, SlidingDataset)
    store = SessionStore(parts.database)
    touches = Touches(session.writes(store, dataset), window=lambda: parts.policy().touch_window, clock=parts.clock)
    dataset.on_uncounted = touches.uncounted
    service = SessionService(dataset, store=store, writer=parts.writer, touches=touches, clock=parts.clock, bound=parts.bound)
    return Service(service, start=touches.start, close=[touches.close])


def _carts(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    assert isinstance(dataset, SlidingDataset)
    limits = Limits(items=parts.settings.cart_max_items, quantity=parts.settings.cart_max_quantity)
    store = CartStore(parts.database)
    return Service(
        CartService(dataset, store=store, writer=parts.writer, changes=parts.changes, limits=limits, bound=parts.bound)
    )


PRODUCT = DatasetSpec(
    name=product.DATASET,
    role="catalog",
    table=Table("products", "product_id"),
    load=lambda parts: product.loader(ProductStore(parts.database)),
    same=product.same,
    memory=1,
    service="cache_sidecar.v1.ProductService",
    register=product_service_pb2_grpc.add_ProductServiceServicer_to_server,
    build=_products,
    priority=Priority.NORMAL,
    fast_path={"GetProduct": fast_path.by_id},
    native=["GetProduct", "BatchGetProducts"],
)
INVENTORY = DatasetSpec(
    name=stock.DATASET,
    role="catalog",
    table=Table("inventory", "id"),
    load=lambda parts: stock.loader(InventoryStore(parts.database)),
    rollout_key=product_of,
    memory_of_its_own=_stock_memory,
    keys=possible_rows,
    service="cache_sidecar.v1.InventoryService",
    register=inventory_service_pb2_grpc.add_InventoryServiceServicer_to_server,
    build=_inventory,
    priority=Priority.VITAL,
)
SESSION = DatasetSpec(
    name=session.DATASET,
    role="user",
    table=Table("sessions", "session_hash"),
    is_private=True,
    load=lambda parts: session.loader(SessionStore(parts.database), policy=parts.policy, clock=parts.clock),
    # Once all sessions of a user are ended no read may be answered with what was read before: so they don't join.
    sliding=Sliding(joins=False, remembers_over=True),
    service="cache_sidecar.v1.SessionService",
    register=session_service_pb2_grpc.add_SessionServiceServicer_to_server,
    build=_sessions,
    priority=Priority.VITAL,
)
CART = DatasetSpec(
    name=cart.DATASET,
    role="user",
    table=Table("carts", "user_id"),
    is_private=True,
    load=lambda parts: cart.loader(CartStore(parts.database)),
    same=cart.same,
    sliding=Sliding(joins=True),
    service="cache_sidecar.v1.CartService",
    register=cart_service_pb2_grpc.add_CartServiceServicer_to_server,
    build=_carts,
    priority=Priority.VITAL,
)

ALL: Sequence[DatasetSpec] = (PRODUCT, INVENTORY, SESSION, CART)


def check_policy(specs: Sequence[DatasetSpec], policy: Iterable[str]) -> None:
    """Raises SettingsError when there is no policy for a dataset, or one for a dataset that is not there."""
    named, known = set(policy), {spec.name for spec in specs}
    if missing := sorted(known - named):
        raise SettingsError(f"the policy says nothing about {', '.join(missing)}: policy.toml needs a table for each dataset")
    if unknown := sorted(named - known):
        raise SettingsError(f"the policy names datasets that do not exist: {', '.join(unknown)}")
