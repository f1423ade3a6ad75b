from google.protobuf import timestamp_pb2 as _timestamp_pb2
from cache_sidecar_client.v1.google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UserEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USER_EVENT_TYPE_UNSPECIFIED: _ClassVar[UserEventType]
    USER_EVENT_TYPE_DETAIL_PAGE_VIEW: _ClassVar[UserEventType]
    USER_EVENT_TYPE_ADD_TO_CART: _ClassVar[UserEventType]
    USER_EVENT_TYPE_REMOVE_FROM_CART: _ClassVar[UserEventType]
    USER_EVENT_TYPE_PURCHASE_COMPLETE: _ClassVar[UserEventType]
    USER_EVENT_TYPE_SEARCH: _ClassVar[UserEventType]
    USER_EVENT_TYPE_HOME_PAGE_VIEW: _ClassVar[UserEventType]
    USER_EVENT_TYPE_SHOPPING_CART_PAGE_VIEW: _ClassVar[UserEventType]
USER_EVENT_TYPE_UNSPECIFIED: UserEventType
USER_EVENT_TYPE_DETAIL_PAGE_VIEW: UserEventType
USER_EVENT_TYPE_ADD_TO_CART: UserEventType
USER_EVENT_TYPE_REMOVE_FROM_CART: UserEventType
USER_EVENT_TYPE_PURCHASE_COMPLETE: UserEventType
USER_EVENT_TYPE_SEARCH: UserEventType
USER_EVENT_TYPE_HOME_PAGE_VIEW: UserEventType
USER_EVENT_TYPE_SHOPPING_CART_PAGE_VIEW: UserEventType

class UserEvent(_message.Message):
    __slots__ = ("event_id", "event_type", "event_time", "user_id", "products", "value", "search_query", "attribution_token", "experiment_id", "variant", "personalised")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_QUERY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_type: UserEventType
    event_time: _timestamp_pb2.Timestamp
    user_id: str
    products: _containers.RepeatedCompositeFieldContainer[UserEventProduct]
    value: _money_pb2.Money
    search_query: str
    attribution_token: str
    experiment_id: str
    variant: str
    personalised: bool
    def __init__(self, event_id: _Optional[str] = ..., event_type: _Optional[_Union[UserEventType, str]] = ..., event_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., user_id: _Optional[str] = ..., products: _Optional[_Iterable[_Union[UserEventProduct, _Mapping]]] = ..., value: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., search_query: _Optional[str] = ..., attribution_token: _Optional[str] = ..., experiment_id: _Optional[str] = ..., variant: _Optional[str] = ..., personalised: bool = ...) -> None: ...

class UserEventProduct(_message.Message):
    __slots__ = ("product_id", "quantity", "unit_price")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    quantity: int
    unit_price: _money_pb2.Money
    def __init__(self, product_id: _Optional[str] = ..., quantity: _Optional[int] = ..., unit_price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ...) -> None: ...
