from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_L1: _ClassVar[Source]
    SOURCE_L2: _ClassVar[Source]
    SOURCE_STORE: _ClassVar[Source]
SOURCE_UNSPECIFIED: Source
SOURCE_L1: Source
SOURCE_L2: Source
SOURCE_STORE: Source

class CacheMetadata(_message.Message):
    __slots__ = ("source", "version", "age", "stale")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    source: Source
    version: int
    age: _duration_pb2.Duration
    stale: bool
    def __init__(self, source: _Optional[_Union[Source, str]] = ..., version: _Optional[int] = ..., age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., stale: bool = ...) -> None: ...

class ReadOptions(_message.Message):
    __slots__ = ("max_age", "bypass")
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    BYPASS_FIELD_NUMBER: _ClassVar[int]
    max_age: _duration_pb2.Duration
    bypass: bool
    def __init__(self, max_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., bypass: bool = ...) -> None: ...
