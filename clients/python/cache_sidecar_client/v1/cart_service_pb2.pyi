from cache_sidecar_client.v1 import cache_pb2 as _cache_pb2
from cache_sidecar_client.v1 import cart_pb2 as _cart_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCartRequest(_message.Message):
    __slots__ = ("user_id", "options")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    options: _cache_pb2.ReadOptions
    def __init__(self, user_id: _Optional[str] = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetCartResponse(_message.Message):
    __slots__ = ("cart", "cache")
    CART_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    cache: _cache_pb2.CacheMetadata
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class ReplaceCartRequest(_message.Message):
    __slots__ = ("cart", "request_id")
    CART_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    request_id: str
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReplaceCartResponse(_message.Message):
    __slots__ = ("cart", "catalogue_prices")
    CART_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_PRICES_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    catalogue_prices: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CataloguePrice]
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., catalogue_prices: _Optional[_Iterable[_Union[_cart_pb2.CataloguePrice, _Mapping]]] = ...) -> None: ...

class AddCartItemRequest(_message.Message):
    __slots__ = ("user_id", "item", "request_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item: _cart_pb2.CartItem
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., item: _Optional[_Union[_cart_pb2.CartItem, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AddCartItemResponse(_message.Message):
    __slots__ = ("cart", "catalogue_prices")
    CART_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_PRICES_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    catalogue_prices: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CataloguePrice]
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., catalogue_prices: _Optional[_Iterable[_Union[_cart_pb2.CataloguePrice, _Mapping]]] = ...) -> None: ...

class SetCartItemQuantityRequest(_message.Message):
    __slots__ = ("user_id", "product_id", "options", "quantity", "request_id")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    product_id: str
    options: _containers.ScalarMap[str, str]
    quantity: int
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., product_id: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., quantity: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetCartItemQuantityResponse(_message.Message):
    __slots__ = ("cart",)
    CART_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ...) -> None: ...

class RemoveCartItemRequest(_message.Message):
    __slots__ = ("user_id", "product_id", "options", "request_id")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    product_id: str
    options: _containers.ScalarMap[str, str]
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., product_id: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RemoveCartItemResponse(_message.Message):
    __slots__ = ("cart",)
    CART_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ...) -> None: ...

class ClearCartRequest(_message.Message):
    __slots__ = ("user_id", "request_id", "etag")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    request_id: str
    etag: str
    def __init__(self, user_id: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class ClearCartResponse(_message.Message):
    __slots__ = ("cart",)
    CART_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ...) -> None: ...

class MergeCartsRequest(_message.Message):
    __slots__ = ("user_id", "guest_user_id", "request_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    GUEST_USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    guest_user_id: str
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., guest_user_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class MergeCartsResponse(_message.Message):
    __slots__ = ("cart",)
    CART_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ...) -> None: ...

class ApplyCartChangesRequest(_message.Message):
    __slots__ = ("user_id", "changes", "request_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    changes: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CartChange]
    request_id: str
    def __init__(self, user_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[_cart_pb2.CartChange, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ApplyCartChangesResponse(_message.Message):
    __slots__ = ("cart", "catalogue_prices")
    CART_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_PRICES_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    catalogue_prices: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CataloguePrice]
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., catalogue_prices: _Optional[_Iterable[_Union[_cart_pb2.CataloguePrice, _Mapping]]] = ...) -> None: ...

class ListAbandonedCartsRequest(_message.Message):
    __slots__ = ("idle_for", "page_size", "page_token")
    IDLE_FOR_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    idle_for: _duration_pb2.Duration
    page_size: int
    page_token: str
    def __init__(self, idle_for: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAbandonedCartsResponse(_message.Message):
    __slots__ = ("carts", "next_page_token", "cache")
    CARTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    carts: _containers.RepeatedCompositeFieldContainer[_cart_pb2.Cart]
    next_page_token: str
    cache: _cache_pb2.CacheMetadata
    def __init__(self, carts: _Optional[_Iterable[_Union[_cart_pb2.Cart, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class WatchCartRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class WatchCartResponse(_message.Message):
    __slots__ = ("cart", "cache")
    CART_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    cart: _cart_pb2.Cart
    cache: _cache_pb2.CacheMetadata
    def __init__(self, cart: _Optional[_Union[_cart_pb2.Cart, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...
