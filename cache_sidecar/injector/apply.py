"""Applies patches to pods in place, and removes the sidecar again, keeping the comments and the order of YAML files."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.container import GROUP, NAME, VOLUMES
from cache_sidecar.injector.patch import DEFAULT_CONTAINER, VARIABLES, Operation
from cache_sidecar.injector.pods import Pod


def apply(pod: Pod, operations: list[Operation]) -> None:
    """Applies a patch; supports only the operations that `patch.py` creates."""
    for operation in operations:
        *path, last = split_pointer(operation["path"])
        parent = _walk(pod, path)
        if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), operation["value"])
        else:
            parent[last] = operation["value"]


def ways(operations: list[Operation]) -> Iterator[tuple[str | int, ...]]:
    """Yields the ways from the pod to everything that a patch sets."""
    for operation in operations:
        yield tuple(int(step) if step.isdecimal() else step for step in split_pointer(operation["path"]))


def note_shared(operations: list[Operation], shared: Mapping[str, str]) -> None:
    """Has a patch record, in the status annotation, what it takes from the sharing of a file's nodes."""
    last = operations[-1]
    holder, key = (last, "value") if isinstance(last["value"], str) else (last["value"], annotations.STATUS)
    holder[key] = json.dumps(json.loads(holder[key]) | {"shared": dict(shared)}, separators=(",", ":"))


def read_shared(pod: Pod) -> Mapping[str, str]:
    """Returns what `note_shared` has recorded in a pod, for `sharing.share_again` after `uninject`."""
    return _Status.read(pods.annotations(pod).get(annotations.STATUS, "")).shared


def version_of(pod: Pod) -> str:
    """Returns the version that injected a pod's sidecar; `?` if it is not known."""
    return _Status.read(pods.annotations(pod).get(annotations.STATUS, "")).version


def uninject(pod: Pod) -> bool:
    """Removes an injected sidecar and everything that came with it. Returns whether there was one."""
    notes = pods.annotations(pod)
    if annotations.STATUS not in notes:
        return False
    status = _Status.read(notes[annotations.STATUS])
    spec, metadata = pod["spec"], pod["metadata"]
    lists = _Lists(status.empty)
    for kind in ("initContainers", "containers"):
        lists.filter("/spec", spec, kind, lambda each: pods.name_of(each) != NAME)
        for index, each in enumerate(spec.get(kind) or []):
            _strip(f"/spec/{kind}/{index}", each, lists, status.kept)
    lists.filter("/spec", spec, "volumes", lambda volume: volume["name"] not in VOLUMES)
    if "supplementalGroups" not in status.kept:
        context = spec.get("securityContext") or {}
        lists.filter("/spec/securityContext", context, "supplementalGroups", lambda group: group != status.group)
    lists.filter("/spec", spec, "imagePullSecrets", lambda secret: secret.get("name") not in status.pull_secrets)
    if status.service_links is not None:
        spec.pop("enableServiceLinks", None)
        if "was" in status.service_links:
            spec["enableServiceLinks"] = status.service_links["was"]
    if status.mode == "classic" and DEFAULT_CONTAINER not in status.kept:
        notes.pop(DEFAULT_CONTAINER, None)
    del notes[annotations.STATUS]
    pods.labels(pod).pop(annotations.INJECTED, None)
    for parent, key in ((spec, "securityContext"), (metadata, "annotations"), (metadata, "labels"), (pod, "metadata")):
        # What was empty, or the parent of something that was, stays where it is: _restore puts the empty value back.
        if not any(f"/{key}/" in f"{pointer}/" for pointer in status.empty):
            _drop_if_empty(parent, key)
    _restore(pod, status.empty)
    return True


class _Status(NamedTuple):
    """The content of the status annotation. Untrusted: any user may have written it."""

    version: str
    mode: str
    kept: list[Any]
    empty: dict[str, Any]
    group: int
    pull_secrets: list[Any]
    service_links: dict[str, Any] | None
    shared: dict[str, str]

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads the valid parts."""
        try:
            status = json.loads(text)
        except (ValueError, RecursionError):
            status = {}
        known = status if isinstance(status, dict) else {}

        def valid(key: str, default: Any) -> Any:
            value = known.get(key)
            return value if isinstance(value, type(default)) else default

        links = valid("service_links", {"was": "unknown"})
        return cls(
            version=valid("version", "?"),
            mode=str(known.get("mode")),
            kept=valid("kept", []),
            empty=valid("empty", {}),
            group=valid("group", GROUP),
            pull_secrets=valid("pull_secrets", []),
            service_links=links if links.get("was") in (None, True, False) else None,
            shared=valid("shared", {}),
        )


class _Lists(NamedTuple):
    """Takes items out of lists."""

    empty: Mapping[str, Any]
    "The lists that were present, but empty or null, by JSON pointer."

    def filter(self, pointer: str, parent: Pod, key: str, keeps: Callable[[Any], bool]) -> None:
        """Deletes items one by one, which keeps the comments of the others, and deletes a list that was not there before."""
        items = parent.get(key)
        if not items:
            return
        for index in reversed(range(len(items))):
            if not keeps(items[index]):
                del items[index]
        # One that was empty stays where it is, for _restore.
        if f"{pointer}/{key}" not in self.empty:
            _drop_if_empty(parent, key)


def _strip(pointer: str, each: Pod, lists: _Lists, kept: list[Any]) -> None:
    lists.filter(
        pointer,
        each,
        "env",
        lambda variable: variable["name"] not in VARIABLES or f"{pods.name_of(each)}/{variable['name']}" in kept,
    )
    lists.filter(pointer, each, "volumeMounts", lambda mount: mount["name"] not in VOLUMES)


def _drop_if_empty(parent: Pod, key: str) -> None:
    if key in parent and not parent[key]:
        del parent[key]


def _restore(pod: Pod, empty: dict[str, Any]) -> None:
    """Restores what was present but empty before the injection, where it still fits the pod."""
    for pointer, value in empty.items():
        with contextlib.suppress(KeyError, IndexError, ValueError, TypeError):
            *path, last = split_pointer(pointer)
            parent = _walk(pod, path)
            if isinstance(parent, dict) and not value and not parent.get(last):
                parent[last] = value


def _walk(pod: Pod, path: list[str]) -> Any:
    found: Any = pod
    for step in path:
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def split_pointer(pointer: str) -> list[str]:
    """Returns the steps of a JSON pointer."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
