"""Checks messages against the rules written in the protos."""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from cache_sidecar.errors import InvalidRequest

# They travel in the trailers, which have to fit into the 8 KiB that clients accept.
MAX_VIOLATIONS = 20


def validate(message: Message, *, path: str = "") -> None:
    """Checks the rules written in the protos. Raises InvalidRequest with the fields that break one."""
    try:
        found = protovalidate.collect_violations(message)
    except protovalidate.EvaluationError as error:
        # Such as a Duration out of its range, which a rule cannot compare.
        raise InvalidRequest({path: f"a value cannot be read: {error}"}) from None
    if found:
        raise InvalidRequest(dict(_described(violation, path) for violation in found[:MAX_VIOLATIONS]))


# What the patterns in the protos mean, as their own text says it to nobody.
_PATTERNS = {
    r"^[^\x00-\x1f\x7f]*$": "must not contain control characters",
    r"^[^\x00]*$": "must not contain NUL characters",
}


def _described(violation: Any, path: str) -> tuple[str, str]:
    found = violation.proto
    elements = found.field.elements if found.field is not None else ()  # a rule of the whole message names no field
    field = ".".join(_element(element) for element in elements)
    return f"{path}{field}", _PATTERNS.get(str(violation.rule_value)) or found.message or found.rule_id


def _element(element: Any) -> str:
    key = element.subscript
    return f"{element.field_name}[{key.value!r}]" if key is not None else element.field_name
