from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_ABSENT: _ClassVar[KeyState]
    KEY_STATE_VALUE: _ClassVar[KeyState]
    KEY_STATE_NOT_FOUND: _ClassVar[KeyState]

class LogLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_LEVEL_UNSPECIFIED: _ClassVar[LogLevel]
    LOG_LEVEL_DEBUG: _ClassVar[LogLevel]
    LOG_LEVEL_INFO: _ClassVar[LogLevel]
    LOG_LEVEL_WARNING: _ClassVar[LogLevel]
    LOG_LEVEL_ERROR: _ClassVar[LogLevel]

class PolicyOrigin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_ORIGIN_UNSPECIFIED: _ClassVar[PolicyOrigin]
    POLICY_ORIGIN_BUILT_IN: _ClassVar[PolicyOrigin]
    POLICY_ORIGIN_FILE: _ClassVar[PolicyOrigin]
    POLICY_ORIGIN_OVERRIDE: _ClassVar[PolicyOrigin]
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_ABSENT: KeyState
KEY_STATE_VALUE: KeyState
KEY_STATE_NOT_FOUND: KeyState
LOG_LEVEL_UNSPECIFIED: LogLevel
LOG_LEVEL_DEBUG: LogLevel
LOG_LEVEL_INFO: LogLevel
LOG_LEVEL_WARNING: LogLevel
LOG_LEVEL_ERROR: LogLevel
POLICY_ORIGIN_UNSPECIFIED: PolicyOrigin
POLICY_ORIGIN_BUILT_IN: PolicyOrigin
POLICY_ORIGIN_FILE: PolicyOrigin
POLICY_ORIGIN_OVERRIDE: PolicyOrigin

class InvalidateRequest(_message.Message):
    __slots__ = ("dataset", "ids", "all")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, dataset: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., all: bool = ...) -> None: ...

class InvalidateResponse(_message.Message):
    __slots__ = ("invalidated",)
    INVALIDATED_FIELD_NUMBER: _ClassVar[int]
    invalidated: int
    def __init__(self, invalidated: _Optional[int] = ...) -> None: ...

class InspectKeyRequest(_message.Message):
    __slots__ = ("dataset", "id")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    id: str
    def __init__(self, dataset: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class InspectKeyResponse(_message.Message):
    __slots__ = ("tiers",)
    TIERS_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[HeldKey]
    def __init__(self, tiers: _Optional[_Iterable[_Union[HeldKey, _Mapping]]] = ...) -> None: ...

class HeldKey(_message.Message):
    __slots__ = ("key", "tier", "state", "version", "age", "served", "stale", "bytes", "known_version", "problem")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    key: str
    tier: str
    state: KeyState
    version: int
    age: _duration_pb2.Duration
    served: bool
    stale: bool
    bytes: int
    known_version: int
    problem: str
    def __init__(self, key: _Optional[str] = ..., tier: _Optional[str] = ..., state: _Optional[_Union[KeyState, str]] = ..., version: _Optional[int] = ..., age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., served: bool = ..., stale: bool = ..., bytes: _Optional[int] = ..., known_version: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class UpdateLogLevelRequest(_message.Message):
    __slots__ = ("level", "duration")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    level: LogLevel
    duration: _duration_pb2.Duration
    def __init__(self, level: _Optional[_Union[LogLevel, str]] = ..., duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UpdateLogLevelResponse(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: LogStatus
    def __init__(self, log: _Optional[_Union[LogStatus, _Mapping]] = ...) -> None: ...

class LogStatus(_message.Message):
    __slots__ = ("level", "configured_level", "reset_time")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_LEVEL_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    level: LogLevel
    configured_level: LogLevel
    reset_time: _timestamp_pb2.Timestamp
    def __init__(self, level: _Optional[_Union[LogLevel, str]] = ..., configured_level: _Optional[_Union[LogLevel, str]] = ..., reset_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    def __init__(self, dataset: _Optional[str] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("tiers", "shadows", "policy", "inspections", "degradations", "tasks", "collections", "user_events", "sidecar")
    TIERS_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    INSPECTIONS_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    USER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[TierStats]
    shadows: _containers.RepeatedCompositeFieldContainer[ShadowStats]
    policy: PolicyStatus
    inspections: _containers.RepeatedCompositeFieldContainer[InspectionStats]
    degradations: _containers.RepeatedCompositeFieldContainer[Degradation]
    tasks: int
    collections: _containers.RepeatedCompositeFieldContainer[CollectionStats]
    user_events: UserEventStats
    sidecar: SidecarStats
    def __init__(self, tiers: _Optional[_Iterable[_Union[TierStats, _Mapping]]] = ..., shadows: _Optional[_Iterable[_Union[ShadowStats, _Mapping]]] = ..., policy: _Optional[_Union[PolicyStatus, _Mapping]] = ..., inspections: _Optional[_Iterable[_Union[InspectionStats, _Mapping]]] = ..., degradations: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ..., tasks: _Optional[int] = ..., collections: _Optional[_Iterable[_Union[CollectionStats, _Mapping]]] = ..., user_events: _Optional[_Union[UserEventStats, _Mapping]] = ..., sidecar: _Optional[_Union[SidecarStats, _Mapping]] = ...) -> None: ...

class SidecarStats(_message.Message):
    __slots__ = ("version", "engine", "uptime", "l1_max_bytes", "partitions_fresh", "invalidation_delay", "relay_lags", "log")
    class RelayLagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _duration_pb2.Duration
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    L1_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FRESH_FIELD_NUMBER: _ClassVar[int]
    INVALIDATION_DELAY_FIELD_NUMBER: _ClassVar[int]
    RELAY_LAGS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    version: str
    engine: str
    uptime: _duration_pb2.Duration
    l1_max_bytes: int
    partitions_fresh: int
    invalidation_delay: _duration_pb2.Duration
    relay_lags: _containers.MessageMap[str, _duration_pb2.Duration]
    log: LogStatus
    def __init__(self, version: _Optional[str] = ..., engine: _Optional[str] = ..., uptime: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., l1_max_bytes: _Optional[int] = ..., partitions_fresh: _Optional[int] = ..., invalidation_delay: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., relay_lags: _Optional[_Mapping[str, _duration_pb2.Duration]] = ..., log: _Optional[_Union[LogStatus, _Mapping]] = ...) -> None: ...

class UserEventStats(_message.Message):
    __slots__ = ("stored", "direct", "refused", "opted_out", "backlog", "backlog_age")
    STORED_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    OPTED_OUT_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_AGE_FIELD_NUMBER: _ClassVar[int]
    stored: int
    direct: int
    refused: int
    opted_out: int
    backlog: int
    backlog_age: _duration_pb2.Duration
    def __init__(self, stored: _Optional[int] = ..., direct: _Optional[int] = ..., refused: _Optional[int] = ..., opted_out: _Optional[int] = ..., backlog: _Optional[int] = ..., backlog_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CollectionStats(_message.Message):
    __slots__ = ("generation", "count", "longest_pause")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LONGEST_PAUSE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    count: int
    longest_pause: _duration_pb2.Duration
    def __init__(self, generation: _Optional[int] = ..., count: _Optional[int] = ..., longest_pause: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("what", "which", "effect", "reason", "since_time")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHICH_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    what: str
    which: str
    effect: str
    reason: str
    since_time: _timestamp_pb2.Timestamp
    def __init__(self, what: _Optional[str] = ..., which: _Optional[str] = ..., effect: _Optional[str] = ..., reason: _Optional[str] = ..., since_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class InspectionStats(_message.Message):
    __slots__ = ("dataset", "fresh", "stale", "violations", "newer")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    NEWER_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    fresh: int
    stale: int
    violations: int
    newer: int
    def __init__(self, dataset: _Optional[str] = ..., fresh: _Optional[int] = ..., stale: _Optional[int] = ..., violations: _Optional[int] = ..., newer: _Optional[int] = ...) -> None: ...

class TierStats(_message.Message):
    __slots__ = ("dataset", "tier", "hits", "misses", "fills", "evictions", "entries", "bytes", "loads", "coalesced", "errors", "unreadable", "newer", "unsigned")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    COALESCED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    NEWER_FIELD_NUMBER: _ClassVar[int]
    UNSIGNED_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    tier: str
    hits: int
    misses: int
    fills: int
    evictions: int
    entries: int
    bytes: int
    loads: int
    coalesced: int
    errors: int
    unreadable: int
    newer: int
    unsigned: int
    def __init__(self, dataset: _Optional[str] = ..., tier: _Optional[str] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., fills: _Optional[int] = ..., evictions: _Optional[int] = ..., entries: _Optional[int] = ..., bytes: _Optional[int] = ..., loads: _Optional[int] = ..., coalesced: _Optional[int] = ..., errors: _Optional[int] = ..., unreadable: _Optional[int] = ..., newer: _Optional[int] = ..., unsigned: _Optional[int] = ...) -> None: ...

class ShadowStats(_message.Message):
    __slots__ = ("dataset", "compared", "mismatches", "left_out")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    compared: int
    mismatches: int
    left_out: int
    def __init__(self, dataset: _Optional[str] = ..., compared: _Optional[int] = ..., mismatches: _Optional[int] = ..., left_out: _Optional[int] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("datasets", "status")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetPolicy]
    status: PolicyStatus
    def __init__(self, datasets: _Optional[_Iterable[_Union[DatasetPolicy, _Mapping]]] = ..., status: _Optional[_Union[PolicyStatus, _Mapping]] = ...) -> None: ...

class PolicyStatus(_message.Message):
    __slots__ = ("version", "file", "load_time", "refused", "last_error", "last_error_time")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LOAD_TIME_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_TIME_FIELD_NUMBER: _ClassVar[int]
    version: int
    file: str
    load_time: _timestamp_pb2.Timestamp
    refused: int
    last_error: str
    last_error_time: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[int] = ..., file: _Optional[str] = ..., load_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., refused: _Optional[int] = ..., last_error: _Optional[str] = ..., last_error_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UpdatePolicyRequest(_message.Message):
    __slots__ = ("policy", "update_mask", "reset_mask")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    RESET_MASK_FIELD_NUMBER: _ClassVar[int]
    policy: DatasetPolicy
    update_mask: _field_mask_pb2.FieldMask
    reset_mask: _field_mask_pb2.FieldMask
    def __init__(self, policy: _Optional[_Union[DatasetPolicy, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., reset_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class UpdatePolicyResponse(_message.Message):
    __slots__ = ("policy", "status")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    policy: DatasetPolicy
    status: PolicyStatus
    def __init__(self, policy: _Optional[_Union[DatasetPolicy, _Mapping]] = ..., status: _Optional[_Union[PolicyStatus, _Mapping]] = ...) -> None: ...

class DatasetPolicy(_message.Message):
    __slots__ = ("dataset", "l1_soft_ttl", "l1_hard_ttl", "l2_ttl", "jitter", "negative_ttl", "stale_limit", "max_lifetime", "staleness_bound", "inspect_every", "rollout", "shadow", "l1_enabled", "l2_enabled", "native_hits", "hide_sold_out", "experiment_id", "experiment_salt", "experiment_variants", "commits_are_purchases", "renew_after_views", "origins")
    class OriginsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: PolicyOrigin
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[PolicyOrigin, str]] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    L1_SOFT_TTL_FIELD_NUMBER: _ClassVar[int]
    L1_HARD_TTL_FIELD_NUMBER: _ClassVar[int]
    L2_TTL_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TTL_FIELD_NUMBER: _ClassVar[int]
    STALE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_LIFETIME_FIELD_NUMBER: _ClassVar[int]
    STALENESS_BOUND_FIELD_NUMBER: _ClassVar[int]
    INSPECT_EVERY_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    L1_ENABLED_FIELD_NUMBER: _ClassVar[int]
    L2_ENABLED_FIELD_NUMBER: _ClassVar[int]
    NATIVE_HITS_FIELD_NUMBER: _ClassVar[int]
    HIDE_SOLD_OUT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_SALT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_VARIANTS_FIELD_NUMBER: _ClassVar[int]
    COMMITS_ARE_PURCHASES_FIELD_NUMBER: _ClassVar[int]
    RENEW_AFTER_VIEWS_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    l1_soft_ttl: _duration_pb2.Duration
    l1_hard_ttl: _duration_pb2.Duration
    l2_ttl: _duration_pb2.Duration
    jitter: float
    negative_ttl: _duration_pb2.Duration
    stale_limit: _duration_pb2.Duration
    max_lifetime: _duration_pb2.Duration
    staleness_bound: _duration_pb2.Duration
    inspect_every: int
    rollout: float
    shadow: bool
    l1_enabled: bool
    l2_enabled: bool
    native_hits: bool
    hide_sold_out: bool
    experiment_id: str
    experiment_salt: str
    experiment_variants: str
    commits_are_purchases: bool
    renew_after_views: int
    origins: _containers.ScalarMap[str, PolicyOrigin]
    def __init__(self, dataset: _Optional[str] = ..., l1_soft_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., l1_hard_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., l2_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., jitter: _Optional[float] = ..., negative_ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., stale_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_lifetime: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., staleness_bound: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., inspect_every: _Optional[int] = ..., rollout: _Optional[float] = ..., shadow: bool = ..., l1_enabled: bool = ..., l2_enabled: bool = ..., native_hits: bool = ..., hide_sold_out: bool = ..., experiment_id: _Optional[str] = ..., experiment_salt: _Optional[str] = ..., experiment_variants: _Optional[str] = ..., commits_are_purchases: bool = ..., renew_after_views: _Optional[int] = ..., origins: _Optional[_Mapping[str, PolicyOrigin]] = ...) -> None: ...
