from cache_sidecar_client.v1 import recommendation_pb2 as _recommendation_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRecommendationsRequest(_message.Message):
    __slots__ = ("user_id", "placement", "model", "page_size", "context_product_ids", "cart_product_ids", "exclude_product_ids")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    CART_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    placement: _recommendation_pb2.RecommendationPlacement
    model: _recommendation_pb2.RecommendationModel
    page_size: int
    context_product_ids: _containers.RepeatedScalarFieldContainer[str]
    cart_product_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_product_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., placement: _Optional[_Union[_recommendation_pb2.RecommendationPlacement, str]] = ..., model: _Optional[_Union[_recommendation_pb2.RecommendationModel, str]] = ..., page_size: _Optional[int] = ..., context_product_ids: _Optional[_Iterable[str]] = ..., cart_product_ids: _Optional[_Iterable[str]] = ..., exclude_product_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GenerateRecommendationsResponse(_message.Message):
    __slots__ = ("recommendations", "model_version", "model_time")
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_TIME_FIELD_NUMBER: _ClassVar[int]
    recommendations: _containers.RepeatedCompositeFieldContainer[_recommendation_pb2.ProvidedRecommendation]
    model_version: str
    model_time: _timestamp_pb2.Timestamp
    def __init__(self, recommendations: _Optional[_Iterable[_Union[_recommendation_pb2.ProvidedRecommendation, _Mapping]]] = ..., model_version: _Optional[str] = ..., model_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
