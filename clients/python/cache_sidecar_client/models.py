"""What calls return: typed views of the messages. A field is converted when it is read, so that a reply costs nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, Self, TypedDict, TypeVar, Unpack, overload

from google.protobuf.message import Message

from cache_sidecar_client import values
from cache_sidecar_client.v1 import (
    cache_pb2,
    cart_pb2,
    inventory_pb2,
    product_pb2,
    product_service_pb2,
    recommendation_pb2,
    session_pb2,
    user_event_pb2,
    user_event_service_pb2,
)
from cache_sidecar_client.values import Money

_T = TypeVar("_T")

SOURCE = values.Enum(cache_pb2.Source, "SOURCE_")
CHANGE = values.Enum(product_service_pb2.ChangeKind, "CHANGE_KIND_")
PRODUCT_ORDER = values.Enum(product_service_pb2.ProductOrder, "PRODUCT_ORDER_")
STATE = values.Enum(inventory_pb2.ReservationState, "RESERVATION_STATE_")
PLACEMENT = values.Enum(recommendation_pb2.RecommendationPlacement, "RECOMMENDATION_PLACEMENT_")
MODEL = values.Enum(recommendation_pb2.RecommendationModel, "RECOMMENDATION_MODEL_")
REASON = values.Enum(recommendation_pb2.RecommendationReason, "RECOMMENDATION_REASON_")
EVENT_TYPE = values.Enum(user_event_pb2.UserEventType, "USER_EVENT_TYPE_")
REFUSAL = values.Enum(user_event_service_pb2.RefusalReason, "REFUSAL_REASON_")


class Cache(NamedTuple):
    """Where a reply comes from, and how old it is."""

    source: str
    "L1, L2 or STORE; L0 for the client's own cache, FALLBACK for the application's loader."
    version: int
    "Grows with every change of the resource."
    age: float
    "The seconds since the content was last known to match PostgreSQL, at most."
    stale: bool
    "Whether it may be older than the policy allows."


def cache_of(message: cache_pb2.CacheMetadata) -> Cache:
    """Returns the metadata of a reply."""
    return Cache(SOURCE.name(message.source), message.version, values.seconds_of(message.age), message.stale)


def read_options(max_age: float | None, bypass: bool) -> cache_pb2.ReadOptions | None:
    """Returns the options of a read; `max_age` is in seconds."""
    if max_age is None:
        return cache_pb2.ReadOptions(bypass=True) if bypass else None
    return cache_pb2.ReadOptions(max_age=values.duration_fields(max_age), bypass=bypass)


class View:
    """A view of a message, which must not be changed: `message` may be shared with others."""

    __slots__ = ("message",)

    def __init__(self, message: Any) -> None:
        self.message = message
        "The message itself, with all fields."

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and type(self) is type(other) and bool(self.message == other.message)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = [f"{name}={getattr(self, name)!r}" for name in vars(type(self)) if isinstance(vars(type(self))[name], Field)]
        return f"{type(self).__name__}({', '.join(fields)})"


class Field(Generic[_T]):
    """A field of a view, converted by `read`."""

    __slots__ = ("_name", "_read")

    def __init__(self, read: Callable[[Any], _T]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: View, owner: type) -> _T: ...
    def __get__(self, view: View | None, owner: type) -> _T | Self:
        return self if view is None else self._read(getattr(view.message, self._name))


# str and int return their argument itself.
def _text() -> Field[str]:
    return Field(str)


def _number() -> Field[int]:
    return Field(int)


def _bool() -> Field[bool]:
    return Field(bool)


def _time() -> Field[datetime | None]:
    return Field(values.time_of)


def _money() -> Field[Money]:
    return Field(values.money_of)


def _map() -> Field[dict[str, str]]:
    return Field(dict)


def _texts() -> Field[tuple[str, ...]]:
    return Field(tuple)


class Product(View):
    """A product that the shop sells."""

    __slots__ = ("_cache",)

    def __init__(self, message: Any, cache: Cache | cache_pb2.CacheMetadata | None = None) -> None:
        self.message = message
        self._cache = cache

    @property
    def cache(self) -> Cache | None:
        """Where it was read from, and how old it is; None for the reply of a write."""
        if isinstance(self._cache, cache_pb2.CacheMetadata):
            self._cache = cache_of(self._cache)
        return self._cache

    product_id = _text()
    title = _text()
    description = _text()
    price = _money()
    categories = _texts()
    brand = _text()
    image_uris = _texts()
    attributes = _map()
    active = _bool()
    etag = _text()
    create_time = _time()
    update_time = _time()

    @property
    def rank(self) -> float | None:
        """The place in the shop's own order, the lowest first; None for one that is listed last."""
        return float(self.message.rank) if self.message.HasField("rank") else None

    @classmethod
    def of(cls, product_id: str, **fields: "Unpack[ProductFields]") -> "Product":
        """Returns a product of the application's own, for fallbacks."""
        return cls(product_message(product_id, fields))


class ProductFields(TypedDict, total=False):
    """The fields of a product that a caller can set."""

    title: str
    description: str
    price: Money | str
    categories: Sequence[str]
    brand: str
    image_uris: Sequence[str]
    attributes: Mapping[str, str]
    active: bool
    rank: float | None


def product_message(product_id: str, fields: ProductFields) -> product_pb2.Product:
    """Returns the message of a product with these fields."""
    price = values.money_message(fields["price"]) if "price" in fields else None
    return product_pb2.Product(product_id=product_id, **fields | {"price": price})  # type: ignore[arg-type]


def _categories(messages: Any) -> "tuple[Category, ...]":
    return tuple(map(Category, messages))


class Category(View):
    """A category of products."""

    __slots__ = ()
    category = _text()
    product_count = _number()
    total_product_count = _number()
    subcategories = Field(_categories)


class Categories(NamedTuple):
    """The categories of the active products."""

    categories: tuple[Category, ...]
    "Those that are below no other one."
    cache: Cache
    "Where they were read from, and how old they are."


def categories_of(reply: product_service_pb2.GetCategoriesResponse) -> Categories:
    """Returns the categories of a reply."""
    return Categories(_categories(reply.categories), cache_of(reply.cache))


class CartItem(View):
    """An item of a cart."""

    __slots__ = ()
    product_id = _text()
    quantity = _number()
    unit_price = _money()
    options = _map()

    @classmethod
    def of(
        cls,
        product_id: str,
        quantity: int,
        unit_price: Money | str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> "CartItem":
        """Returns an item for `replace`; without a price, it gets that of the catalogue."""
        price = values.money_message(unit_price) if unit_price is not None else None
        return cls(cart_pb2.CartItem(product_id=product_id, quantity=quantity, unit_price=price, options=options))


class CataloguePrice(View):
    """A price that was read from the catalogue, for items that were sent without one."""

    __slots__ = ()
    product_id = _text()
    unit_price = _money()
    product_etag = _text()


def _items(messages: Any) -> tuple[CartItem, ...]:
    return tuple(map(CartItem, messages))


def _totals(messages: Any) -> tuple[Money, ...]:
    return tuple(map(values.money_of, messages))


class Cart(View):
    """The cart of a user."""

    __slots__ = ("cache", "catalogue_prices", "missed")

    def __init__(
        self, message: Any, cache: Cache | None = None, *, missed: bool = False, catalogue_prices: Iterable[Any] = ()
    ) -> None:
        self.message = message
        self.cache = cache
        "Where it was read from, and how old it is; None for the reply of a write."
        self.missed = missed
        "Of an event of a watch: whether states between this and the event before were missed."
        self.catalogue_prices = tuple(map(CataloguePrice, catalogue_prices))
        "Of the reply of a write: the prices of items that were sent without one, one for each product."

    user_id = _text()
    items = Field(_items)
    totals = Field(_totals)
    create_time = _time()
    update_time = _time()
    etag = _text()


class Session(View):
    """The session of a browser or another client."""

    __slots__ = ("cache", "revocation_pending", "session_id")

    def __init__(
        self, message: Any, cache: Cache | None = None, *, session_id: str = "", revocation_pending: bool = False
    ) -> None:
        self.message = message
        self.cache = cache
        "Where it was read from, and how old it is; None for the reply of a write."
        self.session_id = session_id
        "Its secret ID: known to whoever asked with it, and returned by `create` and `rotate`."
        self.revocation_pending = revocation_pending
        "Of a rotation: whether other sidecars may accept the old ID for a moment."

    user_id = _text()
    attributes = _map()
    create_time = _time()
    update_time = _time()
    expire_time = _time()
    end_time = _time()
    etag = _text()

    @property
    def ip_address(self) -> str:
        """The client's address."""
        return str(self.message.client.ip_address)

    @property
    def user_agent(self) -> str:
        """The client's user agent."""
        return str(self.message.client.user_agent)

    def __repr__(self) -> str:
        return f"Session(user_id={self.user_id!r}, etag={self.etag!r})"  # neither its ID nor what it holds


class Inventory(View):
    """The stock of a product."""

    __slots__ = ("cache",)

    def __init__(self, message: Any, cache: Cache | None = None) -> None:
        self.message = message
        self.cache = cache
        "Where it was read from, and how old it is; None for the reply of a write."

    product_id = _text()
    available = _number()
    reserved = _number()
    bucket_count = _number()
    etag = _text()
    update_time = _time()


def _reserved(messages: Any) -> dict[str, int]:
    return {item.product_id: item.quantity for item in messages}


class Reservation(View):
    """Pieces that are held for a user."""

    __slots__ = ()
    reservation_id = _text()
    user_id = _text()
    items = Field(_reserved)
    state = Field(STATE.name)
    create_time = _time()
    expire_time = _time()
    end_time = _time()


class Recommendation(View):
    """One product of a list."""

    __slots__ = ()
    product_id = _text()
    score = Field(float)
    reason = Field(REASON.name)
    because_product_id = _text()


def _recommendations(messages: Any) -> tuple[Recommendation, ...]:
    return tuple(map(Recommendation, messages))


class Recommendations(View):
    """A list of products."""

    __slots__ = ()
    recommendations = Field(_recommendations)
    attribution_token = _text()
    missing_product_ids = _texts()
    experiment_id = _text()
    variant = _text()
    model_version = _text()
    model_time = _time()
    generator = _text()
    fallback = _text()
    cache = Field(cache_of)


class ProductChange(NamedTuple):
    """An event of `products.watch`."""

    kind: str
    "WATCH_STARTED, CREATED, UPDATED or DELETED."
    product_id: str
    version: int
    change_time: datetime | None
    missed: bool
    "Of WATCH_STARTED: whether changes may have been missed since the event before. Read again what you hold."


class InventoryChange(NamedTuple):
    """An event of `inventory.watch`: the state of a stock, or, without a product_id, that the watch has started."""

    product_id: str
    inventory: Inventory | None
    "None if the product has no stock, or no longer has one."
    cache: Cache
    missed: bool
    "Of the start: whether states may have been missed. The current ones follow, but not that a stock was deleted."


class Written(NamedTuple):
    """What became of events."""

    event_ids: tuple[str, ...]
    "In the order of the events; empty for those that were not written."
    refused: tuple["Refused", ...]


class Refused(NamedTuple):
    """An event that was not written, and never will be."""

    position: int
    "In the batch."
    reason: str
    "TOO_OLD or IN_FUTURE."
    message: str


def written_of(message: Any) -> Written:
    """Returns the reply of WriteUserEvents or StreamUserEvents."""
    refused = tuple(Refused(event.index, REFUSAL.name(event.reason), event.message) for event in message.refused_events)
    return Written(tuple(message.event_ids), refused)


def event_message(
    event_type: str,
    user_id: str,
    *,
    event_id: str = "",
    event_time: datetime | None = None,
    products: Mapping[str, int] | Sequence[tuple[str, int, Money | str | None]] = (),
    value: Money | str | None = None,
    search_query: str = "",
    attribution_token: str = "",
    experiment_id: str = "",
    variant: str = "",
    personalised: bool | None = None,
) -> user_event_pb2.UserEvent:
    """Returns an event for `events.write`.

    `products` maps product IDs to quantities, or is a list of (product_id, quantity, unit_price or None).
    """
    event = user_event_pb2.UserEvent(
        event_id=event_id,
        event_type=EVENT_TYPE.number(event_type),  # type: ignore[arg-type]  # an enum's number
        user_id=user_id,
        search_query=search_query,
        attribution_token=attribution_token,
        experiment_id=experiment_id,
        variant=variant,
    )
    if event_time is not None:
        _set(event.event_time, values.timestamp_fields(event_time))
    if value is not None:
        event.value.CopyFrom(values.money_message(value))
    if personalised is not None:
        event.personalised = personalised
    rows = [(id, quantity, None) for id, quantity in products.items()] if isinstance(products, Mapping) else products
    for product_id, quantity, unit_price in rows:
        added = event.products.add(product_id=product_id, quantity=quantity)
        if unit_price is not None:
            added.unit_price.CopyFrom(values.money_message(unit_price))
    return event


def session_fields(
    message: session_pb2.Session,
    *,
    user_id: str | None,
    attributes: Mapping[str, str] | None,
    remove_attributes: Sequence[str],
    ip_address: str | None,
    user_agent: str | None,
) -> list[str]:
    """Sets the fields that are not None, and returns the paths of an update that changes these and nothing else."""
    paths = []
    if user_id is not None:
        message.user_id = user_id
        paths.append("user_id")
    if attributes:
        message.attributes.update(attributes)
        paths.append("attributes")
    paths += [f"attributes.{key}" for key in remove_attributes]
    if ip_address is not None or user_agent is not None:
        message.client.ip_address, message.client.user_agent = ip_address or "", user_agent or ""
        paths.append("client")
    return paths


def _set(message: Message, fields: Mapping[str, int]) -> None:
    for name, value in fields.items():
        setattr(message, name, value)
