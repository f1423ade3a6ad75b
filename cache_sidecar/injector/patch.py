"""Creates the patch that injects the sidecar: pod in, JSON patch (RFC 6902) out. No I/O."""

import hashlib
import json
from typing import Any

from cache_sidecar import __version__
from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.annotations import BadAnnotation
from cache_sidecar.injector.container import GROUP, NAME, SOCKET, Mode, Plan, container, mounts_of_others, volumes
from cache_sidecar.injector.options import Options, split_names
from cache_sidecar.injector.pods import Pod

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
VARIABLES = ("CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET", "CACHE_SIDECAR_QUIT_URL", "CACHE_SIDECAR_QUIT_TOKEN_FILE")
"All environment variables that may be added to other containers."
FIRST_NATIVE = (1, 29)
"The first Kubernetes version with native sidecars: init containers with restartPolicy Always."

Operation = dict[str, Any]


def inject(pod: Pod, defaults: Options, version: tuple[int, int]) -> list[Operation]:
    """Returns the operations that inject the sidecar on a cluster of this version; none if the pod is complete.

    Raises BadAnnotation with one line if an annotation of the pod is invalid.
    """
    if present := find_sidecar(pod):
        return _complete(pod, present)
    plan = plan_for(pod, annotations.parse(pod, defaults), version)
    patch = _Patch()
    patch.add_variables(pod, plan.variables, plan.mounts)
    spec, metadata = pod["spec"], pod.get("metadata") or {}
    where = "initContainers" if plan.mode == "native" else "containers"
    patch.insert("/spec", spec, where, [container(plan)])
    patch.insert("/spec", spec, "volumes", volumes(plan), at_end=True)
    if plan.mounts and plan.options.group is not None:
        patch.join_group(spec, plan.options.group)
    patch.add_pull_secrets(spec, split_names(plan.options.image_pull_secrets))
    if plan.options.service_links == "disabled":
        patch.disable_service_links(spec)
    if not pod.get("metadata"):
        patch.replace_empty("", pod, "metadata", {})
    patch.put("/metadata", metadata, "labels", {annotations.INJECTED: "true"})
    notes = {}
    if plan.mode == "classic":
        if DEFAULT_CONTAINER in pods.annotations(pod):
            patch.kept.append(DEFAULT_CONTAINER)
        else:
            notes[DEFAULT_CONTAINER] = pods.name_of(spec["containers"][0])
    # Last, because the status records what `uninject` must restore.
    patch.put("/metadata", metadata, "annotations", notes | {annotations.STATUS: ""})
    patch.fill_status(_status(plan, patch))
    return patch.operations


def plan_for(pod: Pod, options: Options, version: tuple[int, int]) -> Plan:
    """Returns the plan for this pod. Raises BadAnnotation if one of its containers uses the requested port."""
    mode: Mode = options.mode if options.mode != "auto" else ("native" if version >= FIRST_NATIVE else "classic")
    if mode == "native" and version < FIRST_NATIVE:
        raise BadAnnotation(
            f"{annotations.PREFIX}mode: native requires Kubernetes 1.29 or later, this is {version[0]}.{version[1]}"
        )
    taken = _ports(pod)
    port = None if options.port == "none" else int(options.port)
    if port in taken and f"{annotations.PREFIX}port" in pods.annotations(pod):
        raise BadAnnotation(f"{annotations.PREFIX}port: {port} is used by container {taken[port]!r}: choose another one")
    port = port and _free(port, taken)
    ends = mode == "classic" and pod["spec"].get("restartPolicy") in {"Never", "OnFailure"}
    quit_port = _free((port or 50051) + 1, taken) if ends else None
    return Plan(options=options, mode=mode, port=port, quit_port=quit_port)


def _ports(pod: Pod) -> dict[int, str]:
    """Returns the TCP ports that the containers declare, with the name of the container."""
    return {
        port["containerPort"]: pods.name_of(container)
        for container in pods.containers(pod)
        for port in container.get("ports") or []
        if port.get("protocol") in {None, "TCP"}
    }


def _free(port: int, taken: dict[int, str]) -> int:
    while port in taken:
        port = port + 1 if port < 65535 else 1024
    return port


def _status(plan: Plan, patch: "_Patch") -> str:
    config = [plan.options.model_dump(), plan.mode, plan.port, plan.quit_port]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    status: Operation = {"version": __version__, "config": digest, "mode": plan.mode}
    if patch.kept:
        status["kept"] = patch.kept
    if patch.empty:
        status["empty"] = patch.empty
    return json.dumps(status | patch.added, separators=(",", ":"))


def find_sidecar(pod: Pod) -> Pod | None:
    """Returns the injected sidecar's container, None if the pod has none."""
    if annotations.STATUS not in pods.annotations(pod):
        return None
    return next((container for container in pods.containers(pod) if pods.name_of(container) == NAME), None)


def _complete(pod: Pod, sidecar: Pod) -> list[Operation]:
    """Returns the operations for containers that another webhook has added since.

    The order of containers is not changed: other webhooks may also want to be first.
    """
    settings = {variable["name"]: variable.get("value", "") for variable in sidecar.get("env") or []}
    quits, token_file = settings.get("CACHE_SIDECAR_QUIT_ADDRESS"), settings.get("CACHE_SIDECAR_QUIT_TOKEN_FILE")
    variables = {
        "CACHE_SIDECAR_ADDRESS": settings.get("CACHE_SIDECAR_LISTEN_ADDRESS"),
        # Not the socket that a previous version had only for probes.
        "CACHE_SIDECAR_SOCKET": SOCKET if settings.get("CACHE_SIDECAR_LISTEN_SOCKET") == SOCKET else "",
        "CACHE_SIDECAR_QUIT_URL": quits and f"http://{quits}/quit",
        "CACHE_SIDECAR_QUIT_TOKEN_FILE": token_file,
    }
    mounts = mounts_of_others(has_socket=bool(variables["CACHE_SIDECAR_SOCKET"]), has_quit=bool(token_file))
    patch = _Patch()
    patch.add_variables(pod, {name: value for name, value in variables.items() if value}, mounts)
    return patch.operations


class _Patch:
    """Collects operations, and what `uninject` needs to know to undo them."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.kept: list[str] = []
        "Additions that were skipped because the pod already had them."
        self.empty: dict[str, Any] = {}
        "Lists and objects that were present, but empty or null."
        self.added: dict[str, Any] = {}
        "What was added to the pod, if it is not always the same."

    def add_variables(self, pod: Pod, variables: dict[str, str], mounts: list[Any]) -> None:
        """Adds variables and mounts to every container except the sidecar."""
        for kind in ("initContainers", "containers"):
            for index, each in enumerate(pod["spec"].get(kind) or []):
                if pods.name_of(each) != NAME:
                    self._add_variables(f"/spec/{kind}/{index}", each, variables, mounts)

    def _add_variables(self, pointer: str, each: Pod, variables: dict[str, str], mounts: list[Any]) -> None:
        own = {variable["name"] for variable in each.get("env") or []}
        self.kept += [f"{pods.name_of(each)}/{name}" for name in variables if name in own]
        # First, so that the container's own variables can refer to them.
        added = [{"name": name, "value": value} for name, value in variables.items() if name not in own]
        self.insert(pointer, each, "env", added)
        present = {one["name"] for one in each.get("volumeMounts") or []}
        self.insert(pointer, each, "volumeMounts", [dict(one) for one in mounts if one["name"] not in present], at_end=True)

    def join_group(self, spec: Pod, group: int) -> None:
        """Adds the socket's group to the pod."""
        if group != GROUP:
            self.added["group"] = group
        context = spec.get("securityContext") or {}
        if group in (context.get("supplementalGroups") or []):
            self.kept.append("supplementalGroups")
        elif not spec.get("securityContext"):
            self.replace_empty("/spec", spec, "securityContext", {"supplementalGroups": [group]})
        else:
            self.insert("/spec/securityContext", context, "supplementalGroups", [group], at_end=True)

    def add_pull_secrets(self, spec: Pod, names: list[str]) -> None:
        """Adds the Secrets that the image is pulled with, but for those that the pod has."""
        present = {secret.get("name") for secret in spec.get("imagePullSecrets") or []}
        if added := [name for name in dict.fromkeys(names) if name not in present]:
            self.added["pull_secrets"] = added
            self.insert("/spec", spec, "imagePullSecrets", [{"name": name} for name in added], at_end=True)

    def disable_service_links(self, spec: Pod) -> None:
        """Has Kubernetes set no variables for Services. It cannot do so for one container only."""
        if spec.get("enableServiceLinks") is not False:
            self.added["service_links"] = {"was": spec["enableServiceLinks"]} if "enableServiceLinks" in spec else {}
            self._add("/spec/enableServiceLinks", False)

    def insert(self, pointer: str, parent: Pod, key: str, items: list[Any], *, at_end: bool = False) -> None:
        """Adds items to a list; creates the list if there is none."""
        if items and not parent.get(key):
            self.replace_empty(pointer, parent, key, items)
            return
        for index, item in enumerate(items):
            self._add(f"{pointer}/{key}/{'-' if at_end else index}", item)

    def put(self, pointer: str, parent: Pod, key: str, values: dict[str, str]) -> None:
        """Adds keys to an object; creates the object if there is none."""
        if not parent.get(key):
            self.replace_empty(pointer, parent, key, values)
            return
        for name, value in values.items():
            self._add(f"{pointer}/{key}/{name.replace('/', '~1')}", value)

    def replace_empty(self, pointer: str, parent: Pod, key: str, value: Any) -> None:
        """Sets a key that is missing, null or empty, and remembers its previous value."""
        if key in parent:
            self.empty[f"{pointer}/{key}"] = parent[key]
        self._add(f"{pointer}/{key}", value)

    def fill_status(self, status: str) -> None:
        """Fills in the status annotation, which the last operation added empty."""
        last = self.operations[-1]
        if last["value"] == "":
            last["value"] = status
        else:
            last["value"][annotations.STATUS] = status

    def _add(self, path: str, value: Any) -> None:
        self.operations.append({"op": "add", "path": path, "value": value})
