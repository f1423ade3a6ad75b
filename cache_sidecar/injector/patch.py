"""What a sidecar changes in a pod: pod in, JSON patch (RFC 6902) out. No I/O."""

import hashlib
import json
from typing import Any

from cache_sidecar import __version__
from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.annotations import BadAnnotation
from cache_sidecar.injector.container import GROUP, MOUNT_PATH, NAME, SOCKET_VOLUME, Mode, Plan, container, volumes
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.pods import Pod

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
TOLD = ("CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET", "CACHE_SIDECAR_QUIT_URL")
"All variables that applications may get."
FIRST_NATIVE = (1, 29)
"The first version that starts init containers with restartPolicy Always and lets them run."

Operation = dict[str, Any]


def inject(pod: Pod, defaults: Options, version: tuple[int, int]) -> list[Operation]:
    """Returns what puts the sidecar into a pod for a cluster of this version; nothing when all of it is there.

    Raises BadAnnotation with one line when the pod's annotations cannot be followed.
    """
    if present := injected(pod):
        return _complete(pod, present)
    plan = plan_for(pod, annotations.parse(pod, defaults), version)
    patch = _Patch()
    patch.tell(pod, plan.told, mount=plan.has_socket)
    spec, metadata = pod["spec"], pod.get("metadata") or {}
    where = "initContainers" if plan.mode == "native" else "containers"
    patch.insert("/spec", spec, where, [container(plan)])
    patch.insert("/spec", spec, "volumes", volumes(plan), at_end=True)
    if plan.has_socket:
        patch.join_group(spec)
    if not pod.get("metadata"):
        patch.replace_empty("", pod, "metadata", {})
    patch.put("/metadata", metadata, "labels", {annotations.INJECTED: "true"})
    notes = {}
    if plan.mode == "classic":
        if DEFAULT_CONTAINER in pods.annotations(pod):
            patch.kept.append(DEFAULT_CONTAINER)
        else:
            notes[DEFAULT_CONTAINER] = spec["containers"][0]["name"]
    # Last, as it says what was there before and has to come back.
    patch.put("/metadata", metadata, "annotations", notes | {annotations.STATUS: ""})
    patch.state(_status(plan, patch))
    return patch.operations


def plan_for(pod: Pod, options: Options, version: tuple[int, int]) -> Plan:
    """Returns what is settled for this pod. Raises BadAnnotation when its port is taken by one of its containers."""
    mode: Mode = options.mode if options.mode != "auto" else ("native" if version >= FIRST_NATIVE else "classic")
    if mode == "native" and version < FIRST_NATIVE:
        raise BadAnnotation(f"{annotations.PREFIX}mode: native needs Kubernetes 1.29, this is {version[0]}.{version[1]}")
    taken = _ports(pod)
    port = None if options.port == "none" else int(options.port)
    if port in taken and f"{annotations.PREFIX}port" in pods.annotations(pod):
        raise BadAnnotation(f"{annotations.PREFIX}port: {port} is a port of container {taken[port]!r}: choose another")
    port = port and _free(port, taken)
    ends = mode == "classic" and pod["spec"].get("restartPolicy") in {"Never", "OnFailure"}
    quit_port = _free((port or 50051) + 1, taken) if ends else None
    return Plan(options=options, mode=mode, port=port, quit_port=quit_port)


def _ports(pod: Pod) -> dict[int, str]:
    """Returns the ports of its containers, each with the container's name."""
    return {
        port["containerPort"]: container["name"]
        for container in pods.containers(pod)
        for port in container.get("ports") or []
        if port.get("protocol") in {None, "TCP"}
    }


def _free(port: int, taken: dict[int, str]) -> int:
    while port in taken:
        port = port + 1 if port < 65535 else 1024
    return port


def _status(plan: Plan, patch: "_Patch") -> str:
    told = [plan.options.model_dump(), plan.mode, plan.port, plan.quit_port]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    status: Operation = {"version": __version__, "config": digest, "mode": plan.mode}
    if patch.kept:
        status["kept"] = patch.kept
    if patch.empty:
        status["empty"] = patch.empty
    return json.dumps(status, separators=(",", ":"))


def injected(pod: Pod) -> Pod | None:
    """Returns the sidecar that was injected before, None without one."""
    if annotations.STATUS not in pods.annotations(pod):
        return None
    return next((container for container in pods.containers(pod) if container["name"] == NAME), None)


def _complete(pod: Pod, sidecar: Pod) -> list[Operation]:
    """Returns what containers lack that another webhook brought later. The order is left alone: others want to be first too."""
    settings = {variable["name"]: variable.get("value", "") for variable in sidecar.get("env") or []}
    quits = settings.get("CACHE_SIDECAR_QUIT_ADDRESS")
    told = {
        "CACHE_SIDECAR_ADDRESS": settings.get("CACHE_SIDECAR_LISTEN_ADDRESS"),
        "CACHE_SIDECAR_SOCKET": settings.get("CACHE_SIDECAR_LISTEN_SOCKET"),
        "CACHE_SIDECAR_QUIT_URL": quits and f"http://{quits}/quit",
    }
    patch = _Patch()
    patch.tell(pod, {name: value for name, value in told.items() if value}, mount=bool(told["CACHE_SIDECAR_SOCKET"]))
    return patch.operations


class _Patch:
    """Operations as they gather, and what `uninject` has to know to undo them."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.kept: list[str] = []
        "What would have been added, but was there."
        self.empty: dict[str, Any] = {}
        "Lists and objects that were there, empty or null."

    def tell(self, pod: Pod, told: dict[str, str], *, mount: bool) -> None:
        """Adds variables, and the socket's folder, to every container but the sidecar."""
        for kind in ("initContainers", "containers"):
            for index, each in enumerate(pod["spec"].get(kind) or []):
                if each["name"] != NAME:
                    self._tell(f"/spec/{kind}/{index}", each, told, mount=mount)

    def _tell(self, pointer: str, each: Pod, told: dict[str, str], *, mount: bool) -> None:
        own = {variable["name"] for variable in each.get("env") or []}
        self.kept += [f"{each['name']}/{name}" for name in told if name in own]
        # In front, so that the user's own variables can refer to them.
        self.insert(pointer, each, "env", [{"name": name, "value": told[name]} for name in told if name not in own])
        if mount and not any(one["name"] == SOCKET_VOLUME for one in each.get("volumeMounts") or []):
            mounts = [{"name": SOCKET_VOLUME, "mountPath": MOUNT_PATH, "readOnly": True}]
            self.insert(pointer, each, "volumeMounts", mounts, at_end=True)

    def join_group(self, spec: Pod) -> None:
        """Gives the pod the socket's group."""
        context = spec.get("securityContext") or {}
        if GROUP in (context.get("supplementalGroups") or []):
            self.kept.append("supplementalGroups")
        elif not spec.get("securityContext"):
            self.replace_empty("/spec", spec, "securityContext", {"supplementalGroups": [GROUP]})
        else:
            self.insert("/spec/securityContext", context, "supplementalGroups", [GROUP], at_end=True)

    def insert(self, pointer: str, parent: Pod, key: str, items: list[Any], *, at_end: bool = False) -> None:
        """Adds items to a list, which is made when there is none."""
        if items and not parent.get(key):
            self.replace_empty(pointer, parent, key, items)
            return
        for index, item in enumerate(items):
            self._add(f"{pointer}/{key}/{'-' if at_end else index}", item)

    def put(self, pointer: str, parent: Pod, key: str, values: dict[str, str]) -> None:
        """Adds keys to an object, which is made when there is none."""
        if not parent.get(key):
            self.replace_empty(pointer, parent, key, values)
            return
        for name, value in values.items():
            self._add(f"{pointer}/{key}/{name.replace('/', '~1')}", value)

    def replace_empty(self, pointer: str, parent: Pod, key: str, value: Any) -> None:
        """Sets what is missing, null or empty, and remembers which."""
        if key in parent:
            self.empty[f"{pointer}/{key}"] = parent[key]
        self._add(f"{pointer}/{key}", value)

    def state(self, status: str) -> None:
        """Fills in the status, which the last operation left empty."""
        last = self.operations[-1]
        if last["value"] == "":
            last["value"] = status
        else:
            last["value"][annotations.STATUS] = status

    def _add(self, path: str, value: Any) -> None:
        self.operations.append({"op": "add", "path": path, "value": value})
