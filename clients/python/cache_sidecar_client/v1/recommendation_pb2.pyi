from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecommendationPlacement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECOMMENDATION_PLACEMENT_UNSPECIFIED: _ClassVar[RecommendationPlacement]
    RECOMMENDATION_PLACEMENT_HOME_PAGE: _ClassVar[RecommendationPlacement]
    RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL: _ClassVar[RecommendationPlacement]
    RECOMMENDATION_PLACEMENT_SHOPPING_CART: _ClassVar[RecommendationPlacement]
    RECOMMENDATION_PLACEMENT_CHECKOUT: _ClassVar[RecommendationPlacement]

class RecommendationModel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECOMMENDATION_MODEL_UNSPECIFIED: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_RECOMMENDED_FOR_YOU: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_OTHERS_YOU_MAY_LIKE: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_FREQUENTLY_BOUGHT_TOGETHER: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_BUY_IT_AGAIN: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_RECENTLY_VIEWED: _ClassVar[RecommendationModel]
    RECOMMENDATION_MODEL_BEST_SELLERS: _ClassVar[RecommendationModel]

class RecommendationReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECOMMENDATION_REASON_UNSPECIFIED: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_BOUGHT_BEFORE: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_BOUGHT_TOGETHER: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_ALSO_BOUGHT: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_POPULAR: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_PROVIDED: _ClassVar[RecommendationReason]
    RECOMMENDATION_REASON_VIEWED: _ClassVar[RecommendationReason]
RECOMMENDATION_PLACEMENT_UNSPECIFIED: RecommendationPlacement
RECOMMENDATION_PLACEMENT_HOME_PAGE: RecommendationPlacement
RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL: RecommendationPlacement
RECOMMENDATION_PLACEMENT_SHOPPING_CART: RecommendationPlacement
RECOMMENDATION_PLACEMENT_CHECKOUT: RecommendationPlacement
RECOMMENDATION_MODEL_UNSPECIFIED: RecommendationModel
RECOMMENDATION_MODEL_RECOMMENDED_FOR_YOU: RecommendationModel
RECOMMENDATION_MODEL_OTHERS_YOU_MAY_LIKE: RecommendationModel
RECOMMENDATION_MODEL_FREQUENTLY_BOUGHT_TOGETHER: RecommendationModel
RECOMMENDATION_MODEL_BUY_IT_AGAIN: RecommendationModel
RECOMMENDATION_MODEL_RECENTLY_VIEWED: RecommendationModel
RECOMMENDATION_MODEL_BEST_SELLERS: RecommendationModel
RECOMMENDATION_REASON_UNSPECIFIED: RecommendationReason
RECOMMENDATION_REASON_BOUGHT_BEFORE: RecommendationReason
RECOMMENDATION_REASON_BOUGHT_TOGETHER: RecommendationReason
RECOMMENDATION_REASON_ALSO_BOUGHT: RecommendationReason
RECOMMENDATION_REASON_POPULAR: RecommendationReason
RECOMMENDATION_REASON_PROVIDED: RecommendationReason
RECOMMENDATION_REASON_VIEWED: RecommendationReason

class Recommendation(_message.Message):
    __slots__ = ("product_id", "score", "reason", "because_product_id", "terms")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    score: float
    reason: RecommendationReason
    because_product_id: str
    terms: RecommendationTerms
    def __init__(self, product_id: _Optional[str] = ..., score: _Optional[float] = ..., reason: _Optional[_Union[RecommendationReason, str]] = ..., because_product_id: _Optional[str] = ..., terms: _Optional[_Union[RecommendationTerms, _Mapping]] = ...) -> None: ...

class RecommendationTerms(_message.Message):
    __slots__ = ("history", "context", "similar", "popular")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_FIELD_NUMBER: _ClassVar[int]
    POPULAR_FIELD_NUMBER: _ClassVar[int]
    history: float
    context: float
    similar: float
    popular: float
    def __init__(self, history: _Optional[float] = ..., context: _Optional[float] = ..., similar: _Optional[float] = ..., popular: _Optional[float] = ...) -> None: ...

class RecommendationList(_message.Message):
    __slots__ = ("user_id", "product_id", "model", "recommendations")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    product_id: str
    model: RecommendationModel
    recommendations: _containers.RepeatedCompositeFieldContainer[ProvidedRecommendation]
    def __init__(self, user_id: _Optional[str] = ..., product_id: _Optional[str] = ..., model: _Optional[_Union[RecommendationModel, str]] = ..., recommendations: _Optional[_Iterable[_Union[ProvidedRecommendation, _Mapping]]] = ...) -> None: ...

class ProvidedRecommendation(_message.Message):
    __slots__ = ("product_id", "score")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    score: float
    def __init__(self, product_id: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...
