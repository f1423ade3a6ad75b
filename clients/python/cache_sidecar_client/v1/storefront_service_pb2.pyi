from cache_sidecar_client.v1 import cache_pb2 as _cache_pb2
from cache_sidecar_client.v1 import cart_pb2 as _cart_pb2
from cache_sidecar_client.v1 import inventory_pb2 as _inventory_pb2
from cache_sidecar_client.v1 import product_pb2 as _product_pb2
from cache_sidecar_client.v1 import product_service_pb2 as _product_service_pb2
from cache_sidecar_client.v1 import recommendation_pb2 as _recommendation_pb2
from cache_sidecar_client.v1 import session_pb2 as _session_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from cache_sidecar_client.v1.google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetHomePageRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "recommendation_count", "personalised", "options")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    recommendation_count: int
    personalised: bool
    options: _cache_pb2.ReadOptions
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., recommendation_count: _Optional[int] = ..., personalised: bool = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetHomePageResponse(_message.Message):
    __slots__ = ("recommendations", "cart", "session")
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    CART_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    recommendations: RecommendationsPart
    cart: CartSummaryPart
    session: SessionPart
    def __init__(self, recommendations: _Optional[_Union[RecommendationsPart, _Mapping]] = ..., cart: _Optional[_Union[CartSummaryPart, _Mapping]] = ..., session: _Optional[_Union[SessionPart, _Mapping]] = ...) -> None: ...

class GetCategoryPageRequest(_message.Message):
    __slots__ = ("category", "order", "page_size", "page_token", "user_id", "session_id", "recommendation_count", "personalised", "options")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    category: str
    order: _product_service_pb2.ProductOrder
    page_size: int
    page_token: str
    user_id: str
    session_id: str
    recommendation_count: int
    personalised: bool
    options: _cache_pb2.ReadOptions
    def __init__(self, category: _Optional[str] = ..., order: _Optional[_Union[_product_service_pb2.ProductOrder, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., recommendation_count: _Optional[int] = ..., personalised: bool = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetCategoryPageResponse(_message.Message):
    __slots__ = ("products", "inventories", "recommendations", "cart", "session")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    INVENTORIES_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    CART_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    products: ProductListPart
    inventories: InventoriesPart
    recommendations: RecommendationsPart
    cart: CartSummaryPart
    session: SessionPart
    def __init__(self, products: _Optional[_Union[ProductListPart, _Mapping]] = ..., inventories: _Optional[_Union[InventoriesPart, _Mapping]] = ..., recommendations: _Optional[_Union[RecommendationsPart, _Mapping]] = ..., cart: _Optional[_Union[CartSummaryPart, _Mapping]] = ..., session: _Optional[_Union[SessionPart, _Mapping]] = ...) -> None: ...

class GetProductPageRequest(_message.Message):
    __slots__ = ("product_id", "user_id", "session_id", "recommendation_count", "personalised", "options")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    user_id: str
    session_id: str
    recommendation_count: int
    personalised: bool
    options: _cache_pb2.ReadOptions
    def __init__(self, product_id: _Optional[str] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., recommendation_count: _Optional[int] = ..., personalised: bool = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetProductPageResponse(_message.Message):
    __slots__ = ("product", "inventory", "recommendations", "cart", "session")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    CART_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    product: ProductPart
    inventory: InventoryPart
    recommendations: RecommendationsPart
    cart: CartSummaryPart
    session: SessionPart
    def __init__(self, product: _Optional[_Union[ProductPart, _Mapping]] = ..., inventory: _Optional[_Union[InventoryPart, _Mapping]] = ..., recommendations: _Optional[_Union[RecommendationsPart, _Mapping]] = ..., cart: _Optional[_Union[CartSummaryPart, _Mapping]] = ..., session: _Optional[_Union[SessionPart, _Mapping]] = ...) -> None: ...

class GetCartPageRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "recommendation_count", "personalised", "options")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    recommendation_count: int
    personalised: bool
    options: _cache_pb2.ReadOptions
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., recommendation_count: _Optional[int] = ..., personalised: bool = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetCartPageResponse(_message.Message):
    __slots__ = ("cart", "products", "inventories", "recommendations", "session")
    CART_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    INVENTORIES_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    cart: CartPart
    products: ProductsPart
    inventories: InventoriesPart
    recommendations: RecommendationsPart
    session: SessionPart
    def __init__(self, cart: _Optional[_Union[CartPart, _Mapping]] = ..., products: _Optional[_Union[ProductsPart, _Mapping]] = ..., inventories: _Optional[_Union[InventoriesPart, _Mapping]] = ..., recommendations: _Optional[_Union[RecommendationsPart, _Mapping]] = ..., session: _Optional[_Union[SessionPart, _Mapping]] = ...) -> None: ...

class GetCheckoutPageRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "recommendation_count", "personalised", "options")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    recommendation_count: int
    personalised: bool
    options: _cache_pb2.ReadOptions
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., recommendation_count: _Optional[int] = ..., personalised: bool = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetCheckoutPageResponse(_message.Message):
    __slots__ = ("cart", "products", "inventories", "recommendations", "session")
    CART_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    INVENTORIES_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    cart: CartPart
    products: ProductsPart
    inventories: InventoriesPart
    recommendations: RecommendationsPart
    session: SessionPart
    def __init__(self, cart: _Optional[_Union[CartPart, _Mapping]] = ..., products: _Optional[_Union[ProductsPart, _Mapping]] = ..., inventories: _Optional[_Union[InventoriesPart, _Mapping]] = ..., recommendations: _Optional[_Union[RecommendationsPart, _Mapping]] = ..., session: _Optional[_Union[SessionPart, _Mapping]] = ...) -> None: ...

class PartError(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata", "retry_delay")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    retry_delay: _duration_pb2.Duration
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_delay: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ProductPart(_message.Message):
    __slots__ = ("product", "error", "cache")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    product: _product_pb2.Product
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, product: _Optional[_Union[_product_pb2.Product, _Mapping]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class ProductsPart(_message.Message):
    __slots__ = ("products", "missing", "error", "product_caches", "cache")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_CACHES_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedCompositeFieldContainer[_product_pb2.Product]
    missing: _containers.RepeatedScalarFieldContainer[str]
    error: PartError
    product_caches: _containers.RepeatedCompositeFieldContainer[_cache_pb2.CacheMetadata]
    cache: _cache_pb2.CacheMetadata
    def __init__(self, products: _Optional[_Iterable[_Union[_product_pb2.Product, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., product_caches: _Optional[_Iterable[_Union[_cache_pb2.CacheMetadata, _Mapping]]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class ProductListPart(_message.Message):
    __slots__ = ("products", "next_page_token", "error", "cache")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedCompositeFieldContainer[_product_pb2.Product]
    next_page_token: str
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, products: _Optional[_Iterable[_Union[_product_pb2.Product, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class InventoryPart(_message.Message):
    __slots__ = ("inventory", "error", "cache")
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    inventory: _inventory_pb2.Inventory
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, inventory: _Optional[_Union[_inventory_pb2.Inventory, _Mapping]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class InventoriesPart(_message.Message):
    __slots__ = ("inventories", "missing", "error", "inventory_caches", "cache")
    INVENTORIES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_CACHES_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    inventories: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.Inventory]
    missing: _containers.RepeatedScalarFieldContainer[str]
    error: PartError
    inventory_caches: _containers.RepeatedCompositeFieldContainer[_cache_pb2.CacheMetadata]
    cache: _cache_pb2.CacheMetadata
    def __init__(self, inventories: _Optional[_Iterable[_Union[_inventory_pb2.Inventory, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., inventory_caches: _Optional[_Iterable[_Union[_cache_pb2.CacheMetadata, _Mapping]]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class RecommendationsPart(_message.Message):
    __slots__ = ("recommendations", "attribution_token", "missing_product_ids", "experiment_id", "variant", "model_version", "model_time", "generator", "fallback", "degraded", "products", "error", "cache")
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MISSING_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_TIME_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    recommendations: _containers.RepeatedCompositeFieldContainer[_recommendation_pb2.Recommendation]
    attribution_token: str
    missing_product_ids: _containers.RepeatedScalarFieldContainer[str]
    experiment_id: str
    variant: str
    model_version: str
    model_time: _timestamp_pb2.Timestamp
    generator: str
    fallback: str
    degraded: bool
    products: ProductsPart
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, recommendations: _Optional[_Iterable[_Union[_recommendation_pb2.Recommendation, _Mapping]]] = ..., attribution_token: _Optional[str] = ..., missing_product_ids: _Optional[_Iterable[str]] = ..., experiment_id: _Optional[str] = ..., variant: _Optional[str] = ..., model_version: _Optional[str] = ..., model_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., generator: _Optional[str] = ..., fallback: _Optional[str] = ..., degraded: bool = ..., products: _Optional[_Union[ProductsPart, _Mapping]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class CartPart(_message.Message):
    __slots__ = ("cart", "error", "cache")
    CART_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class CartSummaryPart(_message.Message):
    __slots__ = ("item_count", "piece_count", "totals", "etag", "error", "cache")
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    PIECE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    item_count: int
    piece_count: int
    totals: _containers.RepeatedCompositeFieldContainer[_money_pb2.Money]
    etag: str
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, item_count: _Optional[int] = ..., piece_count: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[_money_pb2.Money, _Mapping]]] = ..., etag: _Optional[str] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class SessionPart(_message.Message):
    __slots__ = ("session", "error", "cache")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    error: PartError
    cache: _cache_pb2.CacheMetadata
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ..., error: _Optional[_Union[PartError, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...
