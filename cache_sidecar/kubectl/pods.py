"""The injected sidecars of pods, as the API server describes them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import apply
from cache_sidecar.injector.container import NAME
from cache_sidecar.injector.patch import find_sidecar
from cache_sidecar.terminal import table


class Sidecar(NamedTuple):
    """The sidecar of a pod."""

    namespace: str
    pod: str
    version: str
    "The version that injected it; `?` if its annotation does not say."
    state: str
    "`ready`, `completed`, or why it is not ready, such as `CrashLoopBackOff`."
    restarts: int
    owner: str
    "The uid of the controller that would create it again; empty without one."
    is_ready: bool
    "Whether the whole pod is."

    @property
    def fails(self) -> bool:
        """Whether it should serve, and does not."""
        return self.state not in {"ready", "completed"}


def read(listed: Any) -> list[Sidecar]:
    """Returns the sidecars of listed pods, or of one."""
    return [_read(pod) for pod in listed.get("items", [listed]) if find_sidecar(pod)]


def _read(pod: Any) -> Sidecar:
    said = pod.get("status") or {}
    statuses = [*(said.get("initContainerStatuses") or []), *(said.get("containerStatuses") or [])]
    mine: dict[str, Any] = next((each for each in statuses if each["name"] == NAME), {})
    metadata = pod["metadata"]
    return Sidecar(
        namespace=metadata["namespace"],
        pod=metadata["name"],
        version=apply.version_of(pod),
        state=_state(said.get("phase", ""), mine),
        restarts=int(mine.get("restartCount", 0)),
        owner=next((each["uid"] for each in metadata.get("ownerReferences") or [] if each.get("controller")), ""),
        is_ready=any(each["type"] == "Ready" and each["status"] == "True" for each in said.get("conditions") or []),
    )


def _state(phase: str, mine: Any) -> str:
    if phase in {"Succeeded", "Failed"}:
        return "completed"
    if mine.get("ready"):
        return "ready"
    state = mine.get("state") or {}
    reasons = [(state.get(kind) or {}).get("reason") for kind in ("waiting", "terminated")]
    return next(filter(None, reasons), "starting" if "running" in state else "not started")


def port(pod: Any) -> int:
    """Returns the port of a pod's sidecar. Raises InputError if it has none."""
    name, container = pod["metadata"]["name"], find_sidecar(pod)
    if container is None:
        raise InputError(f"pod {name} has no injected sidecar")
    settings = {variable["name"]: variable.get("value", "") for variable in container.get("env") or []}
    found = settings.get("CACHE_SIDECAR_LISTEN_ADDRESS", "").rpartition(":")[2]
    if not found.isdecimal():
        raise InputError(f"the sidecar of pod {name} has only a socket: ask it inside, with kubectl exec")
    return int(found)


def select_outdated(sidecars: list[Sidecar], expected: str) -> list[Sidecar]:
    """Returns those of another version than the expected one."""
    return [each for each in sidecars if each.version != expected]


def lines(sidecars: list[Sidecar], expected: str) -> Iterator[str]:
    """Yields what to print."""
    rows = [["namespace", "pod", "version", "state", "restarts"]]
    rows += [[each.namespace, each.pod, each.version, each.state, str(each.restarts)] for each in sidecars]
    yield from table.lines(rows, left=4)
    failing, old = [each for each in sidecars if each.fails], select_outdated(sidecars, expected)
    if failing:
        yield f"FAILS     {len(failing)} of {len(sidecars)} do not serve: {_names(failing)}"
    if old:
        yield f"OUTDATED  {len(old)} of {len(sidecars)} are not {expected}: {_names(old)}"


def _names(sidecars: list[Sidecar]) -> str:
    return ", ".join(f"{each.namespace}/{each.pod}" for each in sidecars)


def as_json(sidecars: list[Sidecar], expected: str) -> list[dict[str, Any]]:
    """Returns the same for programs."""
    shown = ("namespace", "pod", "version", "state", "restarts")
    return [
        {name: getattr(each, name) for name in shown} | {"fails": each.fails, "outdated": each.version != expected}
        for each in sidecars
    ]
