"""THE list of datasets. Everything that the sidecar does with a dataset is derived from its specification here.

That is: its tiers and its service (`app.py`), what is invalidated and what is marked stale when the relay lags
(`tiers/coherence`), what the native engine answers, what is sampled and inspected, what AdminService counts, what the relay
publishes, and what `verify` compares. A dataset also has a table in `config/policy.toml`, protos, a store and migrations.
"""

import operator
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from cache_sidecar.config import experiment
from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.importer import carts as cart_import
from cache_sidecar.importer import inventory as inventory_import
from cache_sidecar.importer import products as product_import
from cache_sidecar.importer import recommendations as recommendation_import
from cache_sidecar.importer import sessions as session_import
from cache_sidecar.importer.spec import ImportSpec
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.inventory.sold_out import SoldOut
from cache_sidecar.inventory.stock import StockReader
from cache_sidecar.inventory.watch import Watches
from cache_sidecar.recommendations import packing, remote
from cache_sidecar.recommendations.learned import PopularGenerator, PopularProducts, Profiles, ShopGenerator
from cache_sidecar.recommendations.lists import ListMaker
from cache_sidecar.recommendations.provided import ProvidedGenerator
from cache_sidecar.recommendations.remote import RemoteGenerator
from cache_sidecar.recommendations.viewed import ViewedGenerator
from cache_sidecar.server.layers import FastPath
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Register
from cache_sidecar.services import cart, inventory_messages, product, product_list, product_search, recommendation, session
from cache_sidecar.services.cart import CartService
from cache_sidecar.services.cart_items import Limits
from cache_sidecar.services.inventory import InventoryService
from cache_sidecar.services.product import ProductService
from cache_sidecar.services.product_list import ProductLists
from cache_sidecar.services.purchases import Purchases, RecordEvents
from cache_sidecar.services.recommendation import RecommendationService, Recommender
from cache_sidecar.services.recommendation_imports import RecommendationImports
from cache_sidecar.services.session import SessionService
from cache_sidecar.services.shared import fast_path
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.changes import Changes
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.touches import Touches
from cache_sidecar.store.cart import CartStore
from cache_sidecar.store.database import Database
from cache_sidecar.store.inventory import InventoryStore, every_row, possible_rows, product_of, row_ids
from cache_sidecar.store.product import ProductStore
from cache_sidecar.store.product_list import ProductListStore
from cache_sidecar.store.product_search import ProductSearchStore
from cache_sidecar.store.provided import ProvidedStore
from cache_sidecar.store.recommendation import RecommendationStore
from cache_sidecar.store.reservation import MAX_GRANTS, ReservationStore
from cache_sidecar.store.session import SessionStore
from cache_sidecar.store.user_data import CARTS, RESERVATIONS, SESSIONS, UserRows
from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.store.versions import Table
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.expiry import ExpiryStrategy, FixedExpiry
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.path.sliding import SlidingExpiry
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import L1, InvalidationListener, Load
from cache_sidecar.v1 import (
    cart_service_pb2_grpc,
    inventory_service_pb2_grpc,
    product_service_pb2_grpc,
    recommendation_service_pb2_grpc,
    session_service_pb2_grpc,
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the parts of a dataset are built from."""

    settings: Settings
    clock: Clock
    policy: Callable[[], DatasetPolicy]
    "Returns the policy of this dataset that is in effect."
    database: Database
    "The database of its role; next, what writes to it and what follows its changes."
    writer: Writer
    changes: Changes
    bound: Bound
    "Limits the size of replies."
    datasets: Mapping[str, Dataset]
    "The datasets that come before it in the list."
    database_of: Callable[[str], Database]
    "Returns the database of another role."
    dependencies: Dependencies
    "What to report servers to that are called besides Redis and PostgreSQL."
    record_events: RecordEvents
    "Writes user events, whose service is no dataset's."
    oversells: Counter[str]
    "Counts the attempts to take more than there is, by who refused them; see `inventory/admission.py`."
    shared: dict[str, Any] = field(default_factory=dict)
    "What the functions of its specification keep for each other."


class Service(NamedTuple):
    """A service, and what it needs while it runs."""

    servicer: object
    listeners: Sequence[InvalidationListener] = ()
    "Informed of changes after the dataset."
    start: Callable[[], None] | None = None
    "Called before the first call is accepted."
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    "Called in this order when no calls are left, while Redis and PostgreSQL can still be reached."


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset, and the service that serves it."""

    name: str
    "As in policy.toml, the outbox, the keys in Redis, and AdminService."
    role: str
    "The role of its database in the settings: `catalog` or `user`."
    table: Table
    "Its table, with which `verify` compares the caches."
    is_private: bool = False
    "Whether its ids are personal data, and so neither logged nor printed."

    load: Callable[[Parts], Load]
    "Returns the function that reads it from PostgreSQL."
    is_entry: Callable[[str, bytes], bool]
    "Whether bytes from Redis can be what caches keep of an id. Must not trust them: another program may have written them."
    same: Same = operator.eq
    "Whether two values are equal in content, for the comparison in shadow."
    rollout_key: Callable[[str], str] = str
    "Returns what an id is rolled out by."
    values_without_rows: bool = False
    "Whether ids without a row may have values, too, of version 0: they are made for callers, not stored."
    loads_singly: bool = False
    "Whether each load has one id, and few run at a time, because it may take long."
    expiry: Callable[[Tiers], ExpiryStrategy] = FixedExpiry
    "Returns what decides when its records expire: at a fixed age, or a while after their last use."

    memory: float = 0.0
    "Its share of `l1_max_bytes` and `l1_max_entries`, relative to the others'; 0 for no L1. With one, hits are sampled."
    memory_of_its_own: Callable[[Parts], L1] | None = None
    "Returns a memory of its own, in place of a share, that answers no reads."
    keys: Callable[[str], Iterable[str]] | None = None
    "Returns the cache keys of what callers know by one id; None if they are the same."

    service: str = ""
    "The full name of its service; empty if it is only a part of what others answer. Next, what registers and what builds it."
    register: Register | None = None
    build: Callable[[Parts, Dataset, L1], Service] | None = None
    priority: Priority = Priority.NORMAL
    priorities: Mapping[str, Priority] = field(default_factory=dict)
    "By method, where it is another one."
    fast_path: Mapping[str, Callable[[Dataset], FastPath]] = field(default_factory=dict)
    "By method, what answers hits from the bytes of a request, in Python."
    native: Sequence[str] = ()
    "The methods whose hits the native engine answers."

    imports: ImportSpec | None = None
    "How `cache-sidecar import` imports it; None where it does not."
    user_rows: UserRows | None = None
    "How one user's rows are found, exported and erased by `cache-sidecar user`; None where no row belongs to a user."


def _products(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    versions, pages = parts.datasets[product_list.LIST], parts.datasets[product_list.PAGE]
    lists = ProductLists(versions, pages, ProductListStore(parts.database), clock=parts.clock)
    service = ProductService(
        dataset,
        lists=lists,
        searches=parts.datasets[product_search.DATASET],
        store=ProductStore(parts.database),
        writer=parts.writer,
        changes=parts.changes,
        bound=parts.bound,
    )
    return Service(service, close=[lists.close])


def _stock_memory(parts: Parts) -> SoldOut:
    return SoldOut(row_ids=row_ids, clock=parts.clock, in_shadow=lambda: parts.policy().shadow)


def _inventory(parts: Parts, dataset: Dataset, memory: L1) -> Service:
    assert isinstance(memory, SoldOut)
    store, reservations = InventoryStore(parts.database), ReservationStore(parts.database)
    stocks = StockReader(dataset, row_ids=row_ids, load_whole=inventory_messages.whole_loader(store))
    grants = GrantedRequests(reservations.grants, max_grants=MAX_GRANTS, clock=parts.clock)
    watches = Watches(stocks, store)
    purchases = Purchases(
        parts.record_events,
        is_on=lambda: parts.policy().commits_are_purchases,
        patience=parts.settings.redis_timeout,
    )
    service = InventoryService(
        dataset,
        stocks=stocks,
        store=store,
        reservations=reservations,
        writer=parts.writer,
        admission=ReservationAdmission(stocks, memory, grants, every_row=every_row, oversells=parts.oversells),
        watches=watches,
        purchases=purchases,
        oversells=parts.oversells,
        clock=parts.clock,
        bound=parts.bound,
    )
    return Service(service, listeners=[watches], close=[grants.close, stocks.close, purchases.close])


def _sessions(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    assert isinstance(dataset.expiry, SlidingExpiry)
    store = SessionStore(parts.database)
    touches = Touches(session.use_writer(store, dataset), window=lambda: parts.policy().touch_window, clock=parts.clock)
    dataset.expiry.on_uncounted = touches.add_uncounted
    service = SessionService(dataset, store=store, writer=parts.writer, touches=touches, clock=parts.clock, bound=parts.bound)
    return Service(service, start=touches.start, close=[touches.close])


def _carts(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    limits = Limits(items=parts.settings.cart_max_items, quantity=parts.settings.cart_max_quantity)
    catalogue = parts.database_of("catalog")
    service = CartService(
        dataset,
        store=CartStore(parts.database),
        products=ProductStore(catalogue),
        has_products=catalogue is parts.database,
        writer=parts.writer,
        changes=parts.changes,
        limits=limits,
        bound=parts.bound,
    )
    return Service(service)


def _recommender(parts: Parts) -> Recommender:
    """Returns what makes lists: one for the load and the service."""
    if "recommender" not in parts.shared:
        inventory = InventoryStore(parts.database_of("catalog"))
        stocks = StockReader(
            parts.datasets[inventory_messages.DATASET],
            row_ids=row_ids,
            load_whole=inventory_messages.whole_loader(inventory),
        )
        profiles = Profiles(parts.datasets[recommendation.PROFILE])
        popular = PopularProducts(parts.datasets[recommendation.POPULAR])
        last = PopularGenerator(popular)
        viewed = ViewedGenerator(UserEventStore(parts.database).read_viewed)
        shop = ShopGenerator(profiles=profiles, items=parts.datasets[recommendation.ITEM], popular=popular)
        model = None
        if parts.settings.recommendation_remote_address:
            dependency = parts.dependencies.of(remote.DEPENDENCY)
            model = RemoteGenerator(parts.settings, clock=parts.clock, dependency=dependency)
        maker = ListMaker(
            [shop, last, viewed, ProvidedGenerator(ProvidedStore(parts.database)), *([model] if model else [])],
            profiles=profiles,
            last=last,
            find_shown=recommendation.make_filter(parts.datasets[product.DATASET], stocks, clock=parts.clock),
        )
        order = experiment.order_of(parts.settings.recommendation_generators)
        parts.shared["stocks"], parts.shared["model"] = stocks, model
        parts.shared["recommender"] = Recommender(maker, order=order, policy=parts.policy, clock=parts.clock)
    made: Recommender = parts.shared["recommender"]
    return made


def _recommendations(parts: Parts, dataset: Dataset, _memory: L1) -> Service:
    imports = RecommendationImports(ProvidedStore(parts.database))
    service = RecommendationService(
        dataset, recommender=_recommender(parts), products=parts.datasets[product.DATASET], imports=imports
    )
    model: RemoteGenerator | None = parts.shared["model"]
    return Service(
        service,
        start=model.start if model else None,
        close=[imports.close, *([model.close] if model else []), parts.shared["stocks"].close],
    )


# Parts of ListProducts and GetCategories; a page has no row, and is never changed.
PRODUCT_LIST = DatasetSpec(
    name=product_list.LIST,
    role="catalog",
    table=Table("product_lists", "list_id"),
    load=lambda parts: product_list.list_loader(ProductListStore(parts.database)),
    is_entry=product_list.is_list,
    values_without_rows=True,
    memory=0.002,
)
PRODUCT_PAGE = DatasetSpec(
    name=product_list.PAGE,
    role="catalog",
    table=Table("product_lists", "list_id"),
    load=lambda parts: product_list.page_loader(ProductListStore(parts.database)),
    is_entry=product_list.is_page,
    values_without_rows=True,
    memory=0.015,
)
# The results of SearchProducts, which only expire. Their ids are what users typed.
PRODUCT_SEARCH = DatasetSpec(
    name=product_search.DATASET,
    role="catalog",
    table=Table("product_documents", "product_id"),
    is_private=True,
    load=lambda parts: product_search.loader(ProductSearchStore(parts.database)),
    is_entry=product_search.is_entry,
    values_without_rows=True,
    loads_singly=True,
    memory=0.0025,
)
PRODUCT = DatasetSpec(
    name=product.DATASET,
    role="catalog",
    table=Table("products", "product_id"),
    load=lambda parts: product.loader(ProductStore(parts.database)),
    is_entry=product.is_entry,
    same=product.is_same_entry,
    memory=1,
    service="cache_sidecar.v1.ProductService",
    register=product_service_pb2_grpc.add_ProductServiceServicer_to_server,
    build=_products,
    priority=Priority.NORMAL,
    priorities={"SearchProducts": Priority.LOW},
    fast_path={"GetProduct": fast_path.by_id},
    native=["GetProduct", "BatchGetProducts"],
    imports=product_import.IMPORT,
)
INVENTORY = DatasetSpec(
    name=inventory_messages.DATASET,
    role="catalog",
    table=Table("inventory", "id"),
    load=lambda parts: inventory_messages.loader(InventoryStore(parts.database)),
    is_entry=inventory_messages.is_entry,
    rollout_key=product_of,
    memory_of_its_own=_stock_memory,
    keys=possible_rows,
    service="cache_sidecar.v1.InventoryService",
    register=inventory_service_pb2_grpc.add_InventoryServiceServicer_to_server,
    build=_inventory,
    priority=Priority.VITAL,
    imports=inventory_import.IMPORT,
    user_rows=RESERVATIONS,
)
SESSION = DatasetSpec(
    name=session.DATASET,
    role="user",
    table=Table("sessions", "session_hash"),
    is_private=True,
    load=lambda parts: session.loader(SessionStore(parts.database), policy=parts.policy, clock=parts.clock),
    is_entry=session.is_entry,
    # Once all sessions of a user have ended, no read may be answered with what a load read before that: no coalescing.
    expiry=partial(SlidingExpiry, coalesces=False, remembers_expired=True),
    service="cache_sidecar.v1.SessionService",
    register=session_service_pb2_grpc.add_SessionServiceServicer_to_server,
    build=_sessions,
    priority=Priority.VITAL,
    imports=session_import.IMPORT,
    user_rows=SESSIONS,
)
CART = DatasetSpec(
    name=cart.DATASET,
    role="user",
    table=Table("carts", "user_id"),
    is_private=True,
    load=lambda parts: cart.loader(CartStore(parts.database)),
    is_entry=cart.is_entry,
    same=cart.is_same_entry,
    expiry=partial(SlidingExpiry, coalesces=True),
    service="cache_sidecar.v1.CartService",
    register=cart_service_pb2_grpc.add_CartServiceServicer_to_server,
    build=_carts,
    priority=Priority.VITAL,
    imports=cart_import.IMPORT,
    user_rows=CARTS,
)

# What recommendations are computed from. None of it is what a caller asks for, and `RECOMMENDATION` needs all of it.
RECOMMENDATION_PROFILE = DatasetSpec(
    name=recommendation.PROFILE,
    role="analytics",
    table=Table("recommendation_profiles", "user_id"),
    is_private=True,
    load=lambda parts: recommendation.profile_loader(RecommendationStore(parts.database)),
    is_entry=packing.is_profile,
    memory=0.02,
)
RECOMMENDATION_ITEM = DatasetSpec(
    name=recommendation.ITEM,
    role="analytics",
    table=Table("recommendation_rows", "product_id"),
    load=lambda parts: recommendation.item_loader(RecommendationStore(parts.database)),
    is_entry=packing.is_row,
    memory=0.06,
)
RECOMMENDATION_POPULAR = DatasetSpec(
    name=recommendation.POPULAR,
    role="analytics",
    table=Table("recommendation_popular", "name"),
    load=lambda parts: recommendation.popular_loader(RecommendationStore(parts.database)),
    is_entry=packing.is_profile,
    memory=0.02,
)
RECOMMENDATION = DatasetSpec(
    name=recommendation.DATASET,
    role="analytics",
    table=Table("recommendation_users", "user_id"),
    is_private=True,
    load=lambda parts: recommendation.home_loader(RecommendationStore(parts.database), _recommender(parts)),
    is_entry=recommendation.is_entry,
    same=recommendation.is_same_entry,
    values_without_rows=True,
    memory=0.05,
    service="cache_sidecar.v1.RecommendationService",
    register=recommendation_service_pb2_grpc.add_RecommendationServiceServicer_to_server,
    build=_recommendations,
    priority=Priority.LOW,
    fast_path={"GetRecommendations": fast_path.by_id},
    native=["GetRecommendations"],
    imports=recommendation_import.IMPORT,
)

ALL: Sequence[DatasetSpec] = (
    PRODUCT_LIST,
    PRODUCT_PAGE,
    PRODUCT_SEARCH,
    PRODUCT,
    INVENTORY,
    SESSION,
    CART,
    RECOMMENDATION_PROFILE,
    RECOMMENDATION_ITEM,
    RECOMMENDATION_POPULAR,
    RECOMMENDATION,
)
TABLES: Mapping[str, Table] = {spec.name: spec.table for spec in ALL}


def check_policy(specs: Sequence[DatasetSpec], policy: Iterable[str]) -> None:
    """Raises SettingsError if a dataset has no policy, or a policy no dataset."""
    named, known = set(policy), {spec.name for spec in specs}
    if missing := sorted(known - named):
        raise SettingsError(f"the policy has no table for {', '.join(missing)}: policy.toml needs one for each dataset")
    if unknown := sorted(named - known):
        raise SettingsError(f"the policy names datasets that do not exist: {', '.join(unknown)}")
