"""Puts patches into pods, in place, and takes the sidecar out again; comments and order of a YAML file survive it."""

import contextlib
import json
from typing import Any, NamedTuple, Self

from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.container import GROUP, NAME, VOLUMES
from cache_sidecar.injector.patch import DEFAULT_CONTAINER, TOLD, Operation
from cache_sidecar.injector.pods import Pod


def apply(pod: Pod, operations: list[Operation]) -> None:
    """Applies the patch; only what `patch.py` makes is understood."""
    for operation in operations:
        *path, last = _steps(operation["path"])
        parent = _walk(pod, path)
        if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), operation["value"])
        else:
            parent[last] = operation["value"]


def uninject(pod: Pod) -> bool:
    """Takes an injected sidecar out, and everything that came with it. Returns whether there was one."""
    notes = pods.annotations(pod)
    if annotations.STATUS not in notes:
        return False
    status = _Status.read(notes[annotations.STATUS])
    spec, metadata = pod["spec"], pod["metadata"]
    for kind in ("initContainers", "containers"):
        _filter(spec, kind, lambda each: each["name"] != NAME)
        for each in spec.get(kind) or []:
            _forget(each, status.kept)
    _filter(spec, "volumes", lambda volume: volume["name"] not in VOLUMES)
    if "supplementalGroups" not in status.kept:
        _filter(spec.get("securityContext") or {}, "supplementalGroups", lambda group: group != GROUP)
    if status.mode == "classic" and DEFAULT_CONTAINER not in status.kept:
        notes.pop(DEFAULT_CONTAINER, None)
    del notes[annotations.STATUS]
    pods.labels(pod).pop(annotations.INJECTED, None)
    for parent, key in ((spec, "securityContext"), (metadata, "annotations"), (metadata, "labels"), (pod, "metadata")):
        # What held something empty is not dropped: that comes back, below.
        if not any(f"/{key}/" in pointer for pointer in status.empty):
            _drop_if_empty(parent, key)
    _restore(pod, status.empty)
    return True


class _Status(NamedTuple):
    """What the status annotation says; anybody may have written it."""

    mode: str
    kept: list[Any]
    empty: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads as much of it as makes sense."""
        try:
            status = json.loads(text)
        except (ValueError, RecursionError):
            status = {}
        known = status if isinstance(status, dict) else {}
        kept, empty = known.get("kept"), known.get("empty")
        return cls(str(known.get("mode")), kept if isinstance(kept, list) else [], empty if isinstance(empty, dict) else {})


def _forget(each: Pod, kept: list[Any]) -> None:
    _filter(each, "env", lambda variable: variable["name"] not in TOLD or f"{each['name']}/{variable['name']}" in kept)
    _filter(each, "volumeMounts", lambda mount: mount["name"] not in VOLUMES)


def _filter(parent: Pod, key: str, keeps: Any) -> None:
    """Takes items out of a list one by one, which keeps the comments of the others; the list goes when nothing is left."""
    items = parent.get(key)
    if not items:
        return
    for index in reversed(range(len(items))):
        if not keeps(items[index]):
            del items[index]
    _drop_if_empty(parent, key)


def _drop_if_empty(parent: Pod, key: str) -> None:
    if key in parent and not parent[key]:
        del parent[key]


def _restore(pod: Pod, empty: dict[str, Any]) -> None:
    """Puts back what was there, empty, before; where somebody changed the pod since, and it no longer fits, it is left out."""
    for pointer, value in empty.items():
        with contextlib.suppress(KeyError, IndexError, ValueError, TypeError):
            *path, last = _steps(pointer)
            parent = _walk(pod, path)
            if isinstance(parent, dict) and not value and not parent.get(last):
                parent[last] = value


def _walk(pod: Pod, path: list[str]) -> Any:
    found: Any = pod
    for step in path:
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def _steps(pointer: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
