"""The label that opts in, and the annotations that configure the sidecar."""

import difflib
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import pods
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.pods import Pod

PREFIX = "cache-sidecar.io/"
INJECT = PREFIX + "inject"
"The label of namespaces and pods: `enabled` or `disabled`."
STATUS = PREFIX + "status"
"The annotation that records what was injected."
INJECTED = PREFIX + "injected"
"The label of injected pods, for selectors."


class BadAnnotation(InputError):
    """An annotation, or the label, is invalid."""


def opt_in(pod: Pod) -> bool | None:
    """Returns whether the pod's own label opts in or out, None without one. Raises BadAnnotation for other values."""
    value = pods.labels(pod).get(INJECT)
    if value not in {None, "enabled", "disabled"}:
        raise BadAnnotation(f"label {INJECT}: {value!r} must be enabled or disabled")
    return None if value is None else value == "enabled"


def parse(pod: Pod, defaults: Options) -> Options:
    """Returns the defaults, overridden by the pod's annotations. Raises BadAnnotation with one line about the first bad one."""
    given = {}
    for key, value in pods.annotations(pod).items():
        if key.startswith(PREFIX) and key != STATUS:
            given[_field(key)] = value
    return _merge(defaults, tuple(sorted(given.items()))) if given else defaults


def _field(key: str) -> str:
    name = key.removeprefix(PREFIX)
    field = name.replace("-", "_")
    if field in Options.model_fields and "_" not in name:
        return field
    if key == INJECT:
        raise BadAnnotation(f"{INJECT} is a label, not an annotation: put it under metadata.labels")
    known = [field.replace("_", "-") for field in Options.model_fields]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else f"known annotations: {', '.join(known)}"
    raise BadAnnotation(f"unknown annotation {key[:80]}; {hint}")


@lru_cache(maxsize=256)  # the pods of a Deployment have the same annotations
def _merge(defaults: Options, given: tuple[tuple[str, str], ...]) -> Options:
    # Of two mutually exclusive options, the pod's annotation overrides the default.
    values: dict[str, Any] = defaults.model_dump() | dict(given)
    names = dict(given)
    for one, other in (("policy", "policy_config_map"), ("policy_config_map", "policy")):
        if one in names and other not in names:
            values[other] = ""
    for limit, request in (("memory_limit", "memory_request"), ("ephemeral_storage_limit", "ephemeral_storage_request")):
        if limit in names and request not in names:
            values[request] = values[limit]
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise BadAnnotation(first_line(error)) from None


def first_line(error: ValidationError, prefix: str = PREFIX) -> str:
    """Returns the first error, with the option named as in annotations, or as in a file if there is no prefix."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    name = name.replace("_", "-") if prefix else name
    problem = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "literal_error":
        problem = f"must be {problem}"
    return f"{prefix}{name}: {problem}" if name else f"{prefix}{problem}"
