"""Finds the pod templates in Kubernetes objects."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector.annotations import INJECT

Step = str | int
EACH = "[]"
"The end of a step whose value is a list: the rest of the way is in each of its items."
_TEMPLATE = "spec.template"
_KNOWN = {
    "Pod": "",
    "PodTemplate": "template",
    "ReplicationController": _TEMPLATE,
    "Deployment.apps": _TEMPLATE,
    "ReplicaSet.apps": _TEMPLATE,
    "StatefulSet.apps": _TEMPLATE,
    "DaemonSet.apps": _TEMPLATE,
    "Job.batch": _TEMPLATE,
    "CronJob.batch": "spec.jobTemplate.spec.template",
    "Rollout.argoproj.io": _TEMPLATE,
    "Service.serving.knative.dev": _TEMPLATE,
    "Configuration.serving.knative.dev": _TEMPLATE,
    "DeploymentConfig.apps.openshift.io": _TEMPLATE,
}
# Without apiVersion, a kind of Kubernetes itself.
_CORE = {kind.partition(".")[0]: path for kind, path in _KNOWN.items() if kind.count(".") <= 1}
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]*(\.[a-z0-9.-]+)?")
_WAY = re.compile(r"[A-Za-z0-9_-]+(\[\])?(\.[A-Za-z0-9_-]+(\[\])?)*")


class Workload(NamedTuple):
    """A pod, the pod template of an object, or a labelled object in which none is known."""

    name: str
    "Kind and name, such as `Deployment/shop`."
    namespace: str
    document: Any
    path: tuple[Step, ...]
    "The way from the document to the pod."
    left_alone: str = ""
    "Why nothing is done."

    @property
    def pod(self) -> Any:
        """The pod or pod template, as it is now: its node may be another one after a change elsewhere."""
        found = self.document
        for step in self.path:
            found = found[step]
        return found


def check_templates(templates: Mapping[str, str]) -> dict[str, str]:
    """Returns ways to pod templates by kind. Raises ValueError with a sentence."""
    for kind, way in templates.items():
        if not _KIND.fullmatch(kind):
            raise ValueError(f"{kind[:80]!r} must be a kind with its API group, such as Shop.example.com")
        if not _WAY.fullmatch(way):
            raise ValueError(
                f"{kind}: {way[:80]!r} must be the way to a pod template, such as spec.template or spec.groups[].template"
            )
    return dict(templates)


def workloads(document: object, templates: Mapping[str, str]) -> Iterator[Workload]:
    """Yields every workload in a document, including those in Lists, and labelled objects that are left alone.

    `templates` has the ways to the pod templates of further kinds. Raises InputError for a workload without a pod template.
    """
    for thing, path in _objects(document, ()):
        kind, metadata = thing.get("kind"), thing.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = f"{kind}/{metadata.get('name') or metadata.get('generateName') or '?'}"
        namespace = str(metadata.get("namespace") or "")
        way = _way(thing, templates)
        if way is None:
            if kind != "Namespace" and _has_label(thing):
                problem = (
                    f"unknown_kind: it has the label, but pod_templates has no way to a pod template for {_full_kind(thing)}"
                )
                yield Workload(name, namespace, document, path, problem)
        elif isinstance(thing.get("spec"), dict) and thing["spec"].get("workloadRef"):
            problem = "no_template: it refers to another workload, which gets the sidecar where it stands"
            yield Workload(name, namespace, document, path, problem)
        else:
            found = list(_expand(thing, name, way.split(".") if way else [], ()))
            for index, steps in enumerate(found):
                yield Workload(f"{name}[{index}]" if EACH in way else name, namespace, document, path + steps)


def _way(thing: dict[str, Any], templates: Mapping[str, str]) -> str | None:
    full = _full_kind(thing)
    if full in templates:
        return templates[full]
    return _KNOWN.get(full) if thing.get("apiVersion") else _CORE.get(full)


def _full_kind(thing: dict[str, Any]) -> str:
    """Returns kind and group, such as `Rollout.argoproj.io`; the group of Pods and Services is empty."""
    group, slash, _ = str(thing.get("apiVersion") or "").rpartition("/")
    return f"{thing.get('kind')}.{group}" if slash else str(thing.get("kind"))


def _has_label(value: object) -> bool:
    """Returns whether the label is anywhere in an object, such as in a pod template that is not known to be one."""
    if isinstance(value, dict):
        labels = value.get("labels")
        return (isinstance(labels, dict) and INJECT in labels) or any(map(_has_label, value.values()))
    return isinstance(value, list) and any(map(_has_label, value))


def namespace_labels(document: object) -> dict[str, bool]:
    """Returns the Namespaces in a document that have the label, and whether it is `enabled`."""
    found = {}
    for thing, _ in _objects(document, ()):
        metadata = thing.get("metadata")
        if thing.get("kind") == "Namespace" and isinstance(metadata, dict):
            labels = metadata.get("labels")
            value = labels.get(INJECT) if isinstance(labels, dict) else None
            if value is not None:
                found[str(metadata.get("name"))] = value == "enabled"
    return found


def _objects(value: object, path: tuple[Step, ...]) -> Iterator[tuple[dict[str, Any], tuple[Step, ...]]]:
    if not isinstance(value, dict):
        return
    items = value.get("items")
    if str(value.get("kind")).endswith("List") and isinstance(items, list):
        for index, item in enumerate(items):
            yield from _objects(item, (*path, "items", index))
    else:
        yield value, path


def _expand(value: Any, name: str, way: list[str], done: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Yields the ways to the pod templates, with an index for each item of lists."""
    if not way:
        yield done
        return
    step, *rest = way
    key = step.removesuffix(EACH)
    found = value.get(key) if isinstance(value, dict) else None
    if found is None or (step != key and not isinstance(found, list)):
        where = ".".join(str(each) for each in (*done, key))
        raise InputError(f"{name}: {where} is {'missing' if found is None else 'not a list'}")
    if step == key:
        yield from _expand(found, name, rest, (*done, key))
    else:
        for index, item in enumerate(found):
            yield from _expand(item, name, rest, (*done, key, index))
