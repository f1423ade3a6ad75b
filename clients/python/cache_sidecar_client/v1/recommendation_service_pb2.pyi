from cache_sidecar_client.v1 import cache_pb2 as _cache_pb2
from cache_sidecar_client.v1 import recommendation_pb2 as _recommendation_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetRecommendationsRequest(_message.Message):
    __slots__ = ("user_id", "options", "placement", "model", "page_size", "context_product_ids", "cart_product_ids", "exclude_product_ids", "filter_purchased", "filter_out_of_stock", "personalised", "explain")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    CART_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_PURCHASED_FIELD_NUMBER: _ClassVar[int]
    FILTER_OUT_OF_STOCK_FIELD_NUMBER: _ClassVar[int]
    PERSONALISED_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    options: _cache_pb2.ReadOptions
    placement: _recommendation_pb2.RecommendationPlacement
    model: _recommendation_pb2.RecommendationModel
    page_size: int
    context_product_ids: _containers.RepeatedScalarFieldContainer[str]
    cart_product_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_product_ids: _containers.RepeatedScalarFieldContainer[str]
    filter_purchased: bool
    filter_out_of_stock: bool
    personalised: bool
    explain: bool
    def __init__(self, user_id: _Optional[str] = ..., options: _Optional[_Union[_cache_pb2.ReadOptions, _Mapping]] = ..., placement: _Optional[_Union[_recommendation_pb2.RecommendationPlacement, str]] = ..., model: _Optional[_Union[_recommendation_pb2.RecommendationModel, str]] = ..., page_size: _Optional[int] = ..., context_product_ids: _Optional[_Iterable[str]] = ..., cart_product_ids: _Optional[_Iterable[str]] = ..., exclude_product_ids: _Optional[_Iterable[str]] = ..., filter_purchased: bool = ..., filter_out_of_stock: bool = ..., personalised: bool = ..., explain: bool = ...) -> None: ...

class GetRecommendationsResponse(_message.Message):
    __slots__ = ("recommendations", "attribution_token", "missing_product_ids", "experiment_id", "variant", "model_version", "model_time", "generator", "fallback", "degraded", "cache")
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
    cache: _cache_pb2.CacheMetadata
    def __init__(self, recommendations: _Optional[_Iterable[_Union[_recommendation_pb2.Recommendation, _Mapping]]] = ..., attribution_token: _Optional[str] = ..., missing_product_ids: _Optional[_Iterable[str]] = ..., experiment_id: _Optional[str] = ..., variant: _Optional[str] = ..., model_version: _Optional[str] = ..., model_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., generator: _Optional[str] = ..., fallback: _Optional[str] = ..., degraded: bool = ..., cache: _Optional[_Union[_cache_pb2.CacheMetadata, _Mapping]] = ...) -> None: ...

class ImportRecommendationsRequest(_message.Message):
    __slots__ = ("batch_id", "first_list", "lists", "commit")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_LIST_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    batch_id: str
    first_list: int
    lists: _containers.RepeatedCompositeFieldContainer[_recommendation_pb2.RecommendationList]
    commit: bool
    def __init__(self, batch_id: _Optional[str] = ..., first_list: _Optional[int] = ..., lists: _Optional[_Iterable[_Union[_recommendation_pb2.RecommendationList, _Mapping]]] = ..., commit: bool = ...) -> None: ...

class ImportRecommendationsResponse(_message.Message):
    __slots__ = ("next_list", "committed")
    NEXT_LIST_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    next_list: int
    committed: bool
    def __init__(self, next_list: _Optional[int] = ..., committed: bool = ...) -> None: ...

class DeleteRecommendationsRequest(_message.Message):
    __slots__ = ("user_id", "product_id", "batch_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    product_id: str
    batch_id: str
    def __init__(self, user_id: _Optional[str] = ..., product_id: _Optional[str] = ..., batch_id: _Optional[str] = ...) -> None: ...

class DeleteRecommendationsResponse(_message.Message):
    __slots__ = ("deleted_count",)
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    deleted_count: int
    def __init__(self, deleted_count: _Optional[int] = ...) -> None: ...
