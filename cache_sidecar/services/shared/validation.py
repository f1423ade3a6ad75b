"""Validates messages against the rules in the protos."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import protovalidate
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.v1.buf.validate import validate_pb2

# Violations are sent in the trailers, which must fit into the 8 KiB that clients accept.
MAX_VIOLATIONS = 20
# For messages of more bytes only the first violation is reported: each costs 30 us and 3 KB, and an empty string in a list is a
# violation that takes two bytes.
MAX_EXPLAINED = 4096
# Characters of a map's key that an error shows.
MAX_KEY = 64
# What duration.proto allows: 10,000 years, and a second in nanoseconds.
MAX_SECONDS = 315_576_000_000
NANOS = 10**9
_DURATION = Duration.DESCRIPTOR.full_name
_DURATION_RULE = "must be a google.protobuf.Duration: 10,000 years at most, nanos within a second and of the sign of seconds"


def validate(message: Message, *, path: str = "") -> None:
    """Checks the rules in the protos. Raises InvalidRequest with the fields that break one."""
    if invalid := dict(_invalid_durations(message, path)):
        raise InvalidRequest(invalid)
    try:
        found = protovalidate.collect_violations(message, fail_fast=True)
        if found and message.ByteSize() <= MAX_EXPLAINED:
            found = protovalidate.collect_violations(message)
    except protovalidate.EvaluationError as error:
        # For example a time out of its range, which a rule cannot compare.
        raise InvalidRequest({path: f"a value cannot be read: {error}"}) from None
    if found:
        described = (each for violation in found[:MAX_VIOLATIONS] for each in _describe(violation, message, path))
        raise InvalidRequest(_by_field(described))


def _invalid_durations(message: Message, path: str) -> Iterator[tuple[str, str]]:
    """Yields each field whose numbers are not a valid google.protobuf.Duration: a rule would compare their sum."""
    for field in _leading_to_durations(message.DESCRIPTOR):
        if field.is_repeated:
            values = [(f"{field.name}[{at}].", value) for at, value in enumerate(getattr(message, field.name))]
        else:
            values = [(f"{field.name}.", getattr(message, field.name))] if message.HasField(field.name) else []
        for name, value in values:
            if value.DESCRIPTOR.full_name != _DURATION:
                yield from _invalid_durations(value, path + name)
            elif not _is_duration(value):
                yield f"{path}{name}".removesuffix("."), _DURATION_RULE


@cache
def _leading_to_durations(message: Descriptor) -> Sequence[FieldDescriptor]:
    """Returns the fields that are durations, or contain some. Recursive types are not expected in requests."""
    kinds = [(field, field.message_type) for field in message.fields]
    return [field for field, kind in kinds if kind and (kind.full_name == _DURATION or _leading_to_durations(kind))]


def _is_duration(value: Duration) -> bool:
    seconds, nanos = value.seconds, value.nanos
    return abs(seconds) <= MAX_SECONDS and abs(nanos) < NANOS and seconds * nanos >= 0


def _by_field(violations: Iterable[tuple[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for field, text in violations:
        texts[field] = f"{texts[field]}, and {text}" if field in texts else text
    return texts


# A field in the expression of a rule.
NAMED = re.compile(r"\bthis\.(\w+)")
# What the patterns in the protos mean, in words.
_PATTERNS = {
    r"^[^\x00-\x1f\x7f]*$": "must not contain control characters",
    r"^[^\x00]*$": "must not contain NUL characters",
}


def _describe(violation: Any, message: Message, path: str) -> Iterable[tuple[str, str]]:
    """Yields each field that a violation concerns, and what is wrong with it."""
    found = violation.proto
    text = _PATTERNS.get(str(violation.rule_value)) or found.message or found.rule_id
    if found.field is not None and found.field.elements:
        yield path + ".".join(_element(element) for element in found.field.elements), text
        return
    # A rule of the whole message: it concerns the fields in its expression.
    for name in dict.fromkeys(NAMED.findall(_expression(message, found.rule_id))):
        yield f"{path}{name}", text


def _expression(message: Message, rule_id: str) -> str:
    rules = message.DESCRIPTOR.GetOptions().Extensions[validate_pb2.message].cel
    return next(rule.expression for rule in rules if rule.id == rule_id)


def _element(element: Any) -> str:
    key = element.subscript
    if key is None:
        return str(element.field_name)
    shown = key.value[:MAX_KEY] if isinstance(key.value, str) else key.value
    return f"{element.field_name}[{shown!r}]"
