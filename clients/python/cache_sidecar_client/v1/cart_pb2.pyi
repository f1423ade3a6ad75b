from google.protobuf import timestamp_pb2 as _timestamp_pb2
from cache_sidecar_client.v1.google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Cart(_message.Message):
    __slots__ = ("user_id", "items", "totals", "create_time", "update_time", "etag")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    items: _containers.RepeatedCompositeFieldContainer[CartItem]
    totals: _containers.RepeatedCompositeFieldContainer[_money_pb2.Money]
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    def __init__(self, user_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[CartItem, _Mapping]]] = ..., totals: _Optional[_Iterable[_Union[_money_pb2.Money, _Mapping]]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ...) -> None: ...

class CartItem(_message.Message):
    __slots__ = ("product_id", "quantity", "unit_price", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    quantity: int
    unit_price: _money_pb2.Money
    options: _containers.ScalarMap[str, str]
    def __init__(self, product_id: _Optional[str] = ..., quantity: _Optional[int] = ..., unit_price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CataloguePrice(_message.Message):
    __slots__ = ("product_id", "unit_price", "product_etag")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ETAG_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    unit_price: _money_pb2.Money
    product_etag: str
    def __init__(self, product_id: _Optional[str] = ..., unit_price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., product_etag: _Optional[str] = ...) -> None: ...

class CartChange(_message.Message):
    __slots__ = ("add_item", "set_item_quantity", "remove_item")
    class SetItemQuantity(_message.Message):
        __slots__ = ("product_id", "options", "quantity")
        class OptionsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
        OPTIONS_FIELD_NUMBER: _ClassVar[int]
        QUANTITY_FIELD_NUMBER: _ClassVar[int]
        product_id: str
        options: _containers.ScalarMap[str, str]
        quantity: int
        def __init__(self, product_id: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., quantity: _Optional[int] = ...) -> None: ...
    class RemoveItem(_message.Message):
        __slots__ = ("product_id", "options")
        class OptionsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
        OPTIONS_FIELD_NUMBER: _ClassVar[int]
        product_id: str
        options: _containers.ScalarMap[str, str]
        def __init__(self, product_id: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ...) -> None: ...
    ADD_ITEM_FIELD_NUMBER: _ClassVar[int]
    SET_ITEM_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ITEM_FIELD_NUMBER: _ClassVar[int]
    add_item: CartItem
    set_item_quantity: CartChange.SetItemQuantity
    remove_item: CartChange.RemoveItem
    def __init__(self, add_item: _Optional[_Union[CartItem, _Mapping]] = ..., set_item_quantity: _Optional[_Union[CartChange.SetItemQuantity, _Mapping]] = ..., remove_item: _Optional[_Union[CartChange.RemoveItem, _Mapping]] = ...) -> None: ...
