from cache_sidecar_client.v1 import cache_pb2 as _cache_pb2
from cache_sidecar_client.v1 import inventory_pb2 as _inventory_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetInventoryRequest(_message.Message):
    __slots__ = ("product_id", "options")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    options: _cache_pb2.ReadOptions
    def __init__(self, product_id: _Optional[str] = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class GetInventoryResponse(_message.Message):
    __slots__ = ("inventory", "cache")
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    inventory: _inventory_pb2.Inventory
    cache: _cache_pb2.CacheMetadata
    def __init__(self, inventory: _Optional[_Union[_inventory_pb2.Inventory, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class BatchGetInventoryRequest(_message.Message):
    __slots__ = ("product_ids", "options")
    PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    product_ids: _containers.RepeatedScalarFieldContainer[str]
    options: _cache_pb2.ReadOptions
    def __init__(self, product_ids: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ...) -> None: ...

class BatchGetInventoryResponse(_message.Message):
    __slots__ = ("inventories", "missing", "inventory_caches", "cache")
    INVENTORIES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_CACHES_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    inventories: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.Inventory]
    missing: _containers.RepeatedScalarFieldContainer[str]
    inventory_caches: _containers.RepeatedCompositeFieldContainer[_cache_pb2.CacheMetadata]
    cache: _cache_pb2.CacheMetadata
    def __init__(self, inventories: _Optional[_Iterable[_Union[_inventory_pb2.Inventory, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., inventory_caches: _Optional[_Iterable[_Union[_cache_pb2.CacheMetadata, _Mapping]]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class SetInventoryRequest(_message.Message):
    __slots__ = ("product_id", "available", "etag", "bucket_count", "request_id")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    BUCKET_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    available: int
    etag: str
    bucket_count: int
    request_id: str
    def __init__(self, product_id: _Optional[str] = ..., available: _Optional[int] = ..., etag: _Optional[str] = ..., bucket_count: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetInventoryResponse(_message.Message):
    __slots__ = ("inventory",)
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    inventory: _inventory_pb2.Inventory
    def __init__(self, inventory: _Optional[_Union[_inventory_pb2.Inventory, _Mapping]] = ...) -> None: ...

class AdjustInventoryRequest(_message.Message):
    __slots__ = ("product_id", "delta", "reason", "request_id")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    delta: int
    reason: str
    request_id: str
    def __init__(self, product_id: _Optional[str] = ..., delta: _Optional[int] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AdjustInventoryResponse(_message.Message):
    __slots__ = ("inventory",)
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    inventory: _inventory_pb2.Inventory
    def __init__(self, inventory: _Optional[_Union[_inventory_pb2.Inventory, _Mapping]] = ...) -> None: ...

class ReserveInventoryRequest(_message.Message):
    __slots__ = ("items", "user_id", "hold_duration", "request_id")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.ReservationItem]
    user_id: str
    hold_duration: _duration_pb2.Duration
    request_id: str
    def __init__(self, items: _Optional[_Iterable[_Union[_inventory_pb2.ReservationItem, _Mapping]]] = ..., user_id: _Optional[str] = ..., hold_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReserveInventoryResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _inventory_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_inventory_pb2.Reservation, _Mapping]] = ...) -> None: ...

class ExtendReservationRequest(_message.Message):
    __slots__ = ("reservation_id", "hold_duration", "request_id")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    hold_duration: _duration_pb2.Duration
    request_id: str
    def __init__(self, reservation_id: _Optional[str] = ..., hold_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ExtendReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _inventory_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_inventory_pb2.Reservation, _Mapping]] = ...) -> None: ...

class CommitReservationRequest(_message.Message):
    __slots__ = ("reservation_id", "request_id")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    request_id: str
    def __init__(self, reservation_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CommitReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _inventory_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_inventory_pb2.Reservation, _Mapping]] = ...) -> None: ...

class ReleaseReservationRequest(_message.Message):
    __slots__ = ("reservation_id", "request_id")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    request_id: str
    def __init__(self, reservation_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReleaseReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _inventory_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_inventory_pb2.Reservation, _Mapping]] = ...) -> None: ...

class GetReservationRequest(_message.Message):
    __slots__ = ("reservation_id",)
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    def __init__(self, reservation_id: _Optional[str] = ...) -> None: ...

class GetReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _inventory_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_inventory_pb2.Reservation, _Mapping]] = ...) -> None: ...

class ListReservationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "user_id", "state")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    user_id: str
    state: _inventory_pb2.ReservationState
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., user_id: _Optional[str] = ..., state: _Optional[_Union[_inventory_pb2.ReservationState, str]] = ...) -> None: ...

class ListReservationsResponse(_message.Message):
    __slots__ = ("reservations", "next_page_token")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[_inventory_pb2.Reservation]
    next_page_token: str
    def __init__(self, reservations: _Optional[_Iterable[_Union[_inventory_pb2.Reservation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchInventoryRequest(_message.Message):
    __slots__ = ("product_ids", "categories")
    PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    product_ids: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, product_ids: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchInventoryResponse(_message.Message):
    __slots__ = ("product_id", "inventory", "cache")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    inventory: _inventory_pb2.Inventory
    cache: _cache_pb2.CacheMetadata
    def __init__(self, product_id: _Optional[str] = ..., inventory: _Optional[_Union[_inventory_pb2.Inventory, _Mapping]] = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...
