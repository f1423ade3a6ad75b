"""Reads the bytes of a protobuf message as the strictest runtime would, which merges nothing and skips nothing.

Half of the runtimes keep only the last of a singular message field that occurs twice; Python's merges them, so that its result
does not show what was sent.
"""

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_VARINT, _64_BIT, _LENGTH, _32_BIT = 0, 1, 2, 5
_SIZES = {_64_BIT: 8, _32_BIT: 4}
_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _64_BIT,
    FieldDescriptor.TYPE_FIXED64: _64_BIT,
    FieldDescriptor.TYPE_SFIXED64: _64_BIT,
    FieldDescriptor.TYPE_FLOAT: _32_BIT,
    FieldDescriptor.TYPE_FIXED32: _32_BIT,
    FieldDescriptor.TYPE_SFIXED32: _32_BIT,
    FieldDescriptor.TYPE_STRING: _LENGTH,
    FieldDescriptor.TYPE_BYTES: _LENGTH,
    FieldDescriptor.TYPE_MESSAGE: _LENGTH,
}


class NotStrict(Exception):
    """The bytes are not a message, or one that runtimes read differently; the text says where."""


def check(data: bytes, kind: Descriptor, path: str = "") -> None:
    """Raises NotStrict when a field is unknown, of the wrong type, truncated, or singular and present twice."""
    path = path or kind.name
    seen: set[str] = set()
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        number, wire = tag >> 3, tag & 7
        field = kind.fields_by_number.get(number)
        if field is None:
            raise NotStrict(f"{path} has no field {number}")
        here = f"{path}.{field.name}"
        value, at = _value(data, at, wire, here)
        _check_count(field, seen, here)
        _check_value(field, wire, value, here)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            check(value, field.message_type, here)
    if kind.full_name == "google.protobuf.Any":
        _check_any(data, path)


def check_as(data: bytes, kind: type[Message]) -> None:
    """As `check`, for the bytes of a generated class."""
    check(data, kind.DESCRIPTOR)


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise NotStrict(f"{path} is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotStrict(f"{path} has a varint of more than 10 bytes")


def _value(data: bytes, at: int, wire: int, path: str) -> tuple[bytes, int]:
    """Returns the bytes of a value, without its length, and where it ends."""
    start = at
    if wire == _VARINT:
        _, end = _varint(data, at, path)
    elif wire == _LENGTH:
        size, start = _varint(data, at, path)
        end = start + size
    elif wire in _SIZES:
        end = at + _SIZES[wire]
    else:
        raise NotStrict(f"{path} has the wire type {wire}")
    if end > len(data):
        raise NotStrict(f"{path} is cut short")
    return data[start:end], end


def _check_count(field: FieldDescriptor, seen: set[str], path: str) -> None:
    if field.is_repeated:
        return
    # A second member of a oneof would replace the first.
    name = f"oneof {field.containing_oneof.name}" if field.containing_oneof else field.name
    if name in seen:
        raise NotStrict(f"{path} is there twice")
    seen.add(name)


def _check_value(field: FieldDescriptor, wire: int, value: bytes, path: str) -> None:
    expected = _WIRE_TYPES.get(field.type, _VARINT)
    is_packed = field.is_repeated and wire == _LENGTH
    if wire != expected and not is_packed:
        raise NotStrict(f"{path} has the wire type {wire} instead of {expected}")
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            value.decode()
        except UnicodeDecodeError:
            raise NotStrict(f"{path} is not UTF-8") from None
    if field.type == FieldDescriptor.TYPE_ENUM and wire == _VARINT:
        number, _ = _varint(value, 0, path)
        if number not in field.enum_type.values_by_number:
            raise NotStrict(f"{path} has no value {number}")


def _check_any(data: bytes, path: str) -> None:
    kind, value = "", b""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, path)
        found, at = _value(data, at, tag & 7, path)
        if tag >> 3 == 1:
            kind = found.decode()
        else:
            value = found
    check(value, descriptor_pool.Default().FindMessageTypeByName(kind.rpartition("/")[2]), path)
