"""Checks messages against the rules written in the protos."""

import re
from collections.abc import Iterable
from typing import Any

import protovalidate
from google.protobuf.message import Message

from cache_sidecar.errors import InvalidRequest
from cache_sidecar.v1.buf.validate import validate_pb2

# They travel in the trailers, which have to fit into the 8 KiB that clients accept.
MAX_VIOLATIONS = 20
# Of a larger message, in bytes, only the first violation is told: each costs 30 us and 3 KB, and an empty string in a list
# is a violation of two bytes.
MAX_EXPLAINED = 4096
# Characters of a map's key that are repeated to the caller.
MAX_KEY = 64


def validate(message: Message, *, path: str = "") -> None:
    """Checks the rules written in the protos. Raises InvalidRequest with the fields that break one."""
    try:
        found = protovalidate.collect_violations(message, fail_fast=True)
        if found and message.ByteSize() <= MAX_EXPLAINED:
            found = protovalidate.collect_violations(message)
    except protovalidate.EvaluationError as error:
        # Such as a Duration out of its range, which a rule cannot compare.
        raise InvalidRequest({path: f"a value cannot be read: {error}"}) from None
    if found:
        described = (each for violation in found[:MAX_VIOLATIONS] for each in _described(violation, message, path))
        raise InvalidRequest(_by_field(described))


def _by_field(violations: Iterable[tuple[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for field, text in violations:
        texts[field] = f"{texts[field]}, and {text}" if field in texts else text
    return texts


# Fields in the expression of a rule.
NAMED = re.compile(r"\bthis\.(\w+)")
# What the patterns in the protos mean, as their own text says it to nobody.
_PATTERNS = {
    r"^[^\x00-\x1f\x7f]*$": "must not contain control characters",
    r"^[^\x00]*$": "must not contain NUL characters",
}


def _described(violation: Any, message: Message, path: str) -> Iterable[tuple[str, str]]:
    """Yields each field that a violation is about, and what is wrong with it."""
    found = violation.proto
    text = _PATTERNS.get(str(violation.rule_value)) or found.message or found.rule_id
    if found.field is not None and found.field.elements:
        yield path + ".".join(_element(element) for element in found.field.elements), text
        return
    # A rule of the whole message: it is about the fields that its expression names.
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
