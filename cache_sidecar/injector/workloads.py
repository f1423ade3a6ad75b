"""Where the pod is in an object of Kubernetes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector.annotations import INJECT

_TEMPLATE = ("spec", "template")
_PATHS = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


class Workload(NamedTuple):
    """A pod, or the template of pods, within an object."""

    name: str
    "Kind and name, such as `Deployment/shop`."
    namespace: str
    pod: object


def workloads(document: object) -> Iterator[Workload]:
    """Yields every workload in a document, also within Lists. Raises InputError for one that has no pod template."""
    for thing in _objects(document):
        kind, metadata = thing.get("kind"), thing.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = f"{kind}/{metadata.get('name') or metadata.get('generateName') or '?'}"
        if isinstance(kind, str) and kind in _PATHS:
            yield Workload(name, str(metadata.get("namespace") or ""), _pod(thing, name, _PATHS[kind]))


def labelled_namespaces(document: object) -> dict[str, bool]:
    """Returns the Namespaces in a document that have the label, and whether it enables."""
    found = {}
    for thing in _objects(document):
        metadata = thing.get("metadata")
        if thing.get("kind") == "Namespace" and isinstance(metadata, dict):
            labels = metadata.get("labels")
            value = labels.get(INJECT) if isinstance(labels, dict) else None
            if value is not None:
                found[str(metadata.get("name"))] = value == "enabled"
    return found


def _objects(document: object) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        return
    items = document.get("items")
    if str(document.get("kind")).endswith("List") and isinstance(items, list):
        for item in items:
            yield from _objects(item)
    else:
        yield document


def _pod(thing: dict[str, Any], name: str, path: tuple[str, ...]) -> object:
    found: Any = thing
    for depth, step in enumerate(path, start=1):
        found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            raise InputError(f"{name}: {'.'.join(path[:depth])} is missing")
    return found
