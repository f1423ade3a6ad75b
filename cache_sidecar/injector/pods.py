"""The parts of a pod that the injector reads, validated. All other fields are kept unchanged."""

from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12

from cache_sidecar.core.errors import InputError

Pod = dict[str, Any]

_open = with_config(ConfigDict(extra="allow", strict=True))


@_open
class _Named(TypedDict):
    name: str


@_open
class _Mount(TypedDict):
    name: str
    mountPath: str


@_open
class _Port(TypedDict):
    containerPort: int
    protocol: NotRequired[str | None]


@_open
class _Container(TypedDict):
    name: NotRequired[str]
    image: NotRequired[str | None]
    command: NotRequired[list[str] | None]
    env: NotRequired[list[_Named] | None]
    ports: NotRequired[list[_Port] | None]
    volumeMounts: NotRequired[list[_Mount] | None]


@_open
class _Security(TypedDict):
    supplementalGroups: NotRequired[list[int] | None]


@_open
class _Secret(TypedDict):
    name: NotRequired[str | None]


@_open
class _Os(TypedDict):
    name: NotRequired[str | None]


@_open
class _Spec(TypedDict):
    containers: NotRequired[list[_Container] | None]
    initContainers: NotRequired[list[_Container] | None]
    volumes: NotRequired[list[_Named] | None]
    imagePullSecrets: NotRequired[list[_Secret] | None]
    enableServiceLinks: NotRequired[bool | None]
    nodeSelector: NotRequired[dict[str, str] | None]
    os: NotRequired[_Os | None]
    hostNetwork: NotRequired[bool | None]
    automountServiceAccountToken: NotRequired[bool | None]
    restartPolicy: NotRequired[str | None]
    securityContext: NotRequired[_Security | None]


@_open
class _Metadata(TypedDict):
    labels: NotRequired[dict[str, str] | None]
    annotations: NotRequired[dict[str, str] | None]


@_open
class _Pod(TypedDict):
    metadata: NotRequired[_Metadata | None]
    spec: _Spec


_SHAPE = TypeAdapter(_Pod)


def check(pod: object) -> Pod:
    """Returns the pod, or pod template, unchanged. Raises InputError with one line if it is not shaped like one."""
    if not isinstance(pod, dict):
        raise InputError("a pod must be an object")
    try:
        _SHAPE.validate_python(pod)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        hint = ": quote it" if first["type"] == "string_type" and "metadata" in first["loc"] else ""
        raise InputError(f"{path}: {first['msg']}{hint}") from None
    return pod


def labels(pod: Pod) -> dict[str, str]:
    """Returns its labels, which may be missing or null."""
    return (pod.get("metadata") or {}).get("labels") or {}


def annotations(pod: Pod) -> dict[str, str]:
    """Returns its annotations, which may be missing or null."""
    return (pod.get("metadata") or {}).get("annotations") or {}


def name_of(container: dict[str, Any]) -> str:
    """Returns a container's name, or for one without a name, as Knative allows, the one that it gets there."""
    return str(container.get("name", "user-container"))


def init_containers(pod: Pod) -> list[dict[str, Any]]:
    """Returns its init containers."""
    return pod["spec"].get("initContainers") or []


def containers(pod: Pod) -> list[dict[str, Any]]:
    """Returns its init containers, followed by its containers."""
    return [*init_containers(pod), *(pod["spec"].get("containers") or [])]
