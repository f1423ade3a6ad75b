"""Decides whether a pod gets a sidecar. No I/O: all input is in the arguments."""

import posixpath
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.container import MOUNT_PATH, NAME, VOLUMES
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import find_sidecar
from cache_sidecar.injector.pods import Pod

SYSTEM_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease"})


class Reason(Enum):
    """Why a pod gets no sidecar. The name in lower case is a stable code; the value is the message."""

    NOT_ENABLED = "neither the pod nor its namespace has the label cache-sidecar.io/inject: enabled"
    OPTED_OUT = "the pod has the label cache-sidecar.io/inject: disabled"
    SYSTEM_NAMESPACE = "the namespace belongs to Kubernetes"
    OWN_NAMESPACE = "the namespace is the injector's own"
    OWN_POD = "the pod is part of the cache sidecar itself"
    MIRROR_POD = "the pod mirrors a static pod, which cannot be changed"
    HOST_NETWORK = "the pod uses the node's network, where the sidecars of several pods would need the same port"
    WINDOWS = "the pod runs on Windows"
    NO_CONTAINERS = "the pod has no containers"
    SIDECAR_PRESENT = "the pod has a cache sidecar that was not injected"
    VOLUME_TAKEN = "the pod has a volume with the same name as one of the sidecar's volumes"
    MOUNT_PATH_TAKEN = f"a container has another volume mounted at {MOUNT_PATH}"

    @property
    def code(self) -> str:
        """The stable code, such as `host_network`."""
        return self.name.lower()


class Place(NamedTuple):
    """Where a pod is created."""

    namespace: str
    enabled: bool
    "Whether pods of this namespace get a sidecar unless they opt out."
    own_namespace: str = ""
    "The namespace that the injector runs in."


def decide(pod: Pod, place: Place, defaults: Options) -> Reason | None:
    """Returns why the pod gets no sidecar, None if it gets one. Raises BadAnnotation for an invalid value of the label."""
    return next(_reasons(pod, place, defaults), None)


def _reasons(pod: Pod, place: Place, defaults: Options) -> Iterator[Reason]:
    yield from _by_place(pod, place)
    opt_in = annotations.opt_in(pod)
    if opt_in is False:
        yield Reason.OPTED_OUT
    if opt_in is None and not place.enabled:
        yield Reason.NOT_ENABLED
    yield from _by_spec(pod["spec"])
    # An injected pod may have to be completed, if another webhook has added containers since.
    if not find_sidecar(pod):
        yield from _by_clash(pod, defaults)


def _by_place(pod: Pod, place: Place) -> Iterator[Reason]:
    if place.namespace in SYSTEM_NAMESPACES:
        yield Reason.SYSTEM_NAMESPACE
    if place.namespace and place.namespace == place.own_namespace:
        yield Reason.OWN_NAMESPACE
    if pods.labels(pod).get("app.kubernetes.io/part-of") == "cache-sidecar":
        yield Reason.OWN_POD
    if "kubernetes.io/config.mirror" in pods.annotations(pod):
        yield Reason.MIRROR_POD


def _by_spec(spec: Pod) -> Iterator[Reason]:
    if spec.get("hostNetwork"):
        yield Reason.HOST_NETWORK
    if "windows" in {(spec.get("os") or {}).get("name"), (spec.get("nodeSelector") or {}).get("kubernetes.io/os")}:
        yield Reason.WINDOWS
    if not spec.get("containers"):
        yield Reason.NO_CONTAINERS


def _by_clash(pod: Pod, defaults: Options) -> Iterator[Reason]:
    everyone = pods.containers(pod)
    if any(pods.name_of(container) == NAME or _is_sidecar(container, defaults) for container in everyone):
        yield Reason.SIDECAR_PRESENT
    if any(volume["name"] in VOLUMES for volume in pod["spec"].get("volumes") or []):
        yield Reason.VOLUME_TAKEN
    if any(_has_mount(container) for container in everyone):
        yield Reason.MOUNT_PATH_TAKEN


def _has_mount(container: Pod) -> bool:
    # Other spellings of the path are the same folder to the kubelet.
    paths = [mount["mountPath"].lstrip("/") for mount in container.get("volumeMounts") or []]
    return any(posixpath.normpath(f"/{path}") == MOUNT_PATH for path in paths)


def _is_sidecar(container: Pod, defaults: Options) -> bool:
    if container.get("command"):
        return False  # the same image, used for something else
    repository = _repository(container.get("image") or "")
    return repository == _repository(defaults.image) or repository.rpartition("/")[2] == "cache-sidecar"


def _repository(image: str) -> str:
    path, slash, name = image.partition("@")[0].rpartition("/")
    return path + slash + name.partition(":")[0]
