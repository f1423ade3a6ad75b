"""The sidecar as a container of a pod, and the volumes it needs."""

from typing import Any, Literal, NamedTuple

from cache_sidecar.injector import secret_files
from cache_sidecar.injector.options import Options

NAME = "cache-sidecar"
GROUP = 65532
"Default user and group. The pod joins the group, so that every container can use the socket and the token for `/quit`."
MOUNT_PATH = "/run/cache-sidecar"
SOCKET = f"{MOUNT_PATH}/grpc.sock"
_PROBE_PATH = "/run/cache-sidecar-probe"
# Only in the sidecar's container: probes need no certificate, and the application cannot take the socket's connections.
_PROBE_SOCKET = f"{_PROBE_PATH}/grpc.sock"
PROBE_VOLUME = "cache-sidecar-probe"
SOCKET_VOLUME = "cache-sidecar-socket"
NO_TOKEN_VOLUME = "cache-sidecar-no-token"
POLICY_VOLUME = "cache-sidecar-policy"
QUIT_VOLUME = "cache-sidecar-quit"
QUIT_PATH = "/run/cache-sidecar-quit"
QUIT_TOKEN_FILE = f"{QUIT_PATH}/token"
"Written by the sidecar, so that the token is neither in the pod's specification nor in an environment variable."
VOLUMES = frozenset({SOCKET_VOLUME, PROBE_VOLUME, NO_TOKEN_VOLUME, POLICY_VOLUME, QUIT_VOLUME}) | secret_files.VOLUMES

_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_POLICY_PATH = f"{secret_files.FOLDER}/policy"

Mode = Literal["native", "classic"]
Object = dict[str, Any]


class Plan(NamedTuple):
    """All decisions about the sidecar of one pod."""

    options: Options
    mode: Mode
    port: int | None
    quit_port: int | None
    "Port of `POST /quit`, for a pod that runs to completion while its sidecar is an ordinary container."

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables set in the other containers."""
        found = {}
        if self.port is not None:
            found["CACHE_SIDECAR_ADDRESS"] = f"127.0.0.1:{self.port}"
        if self.has_socket:
            found["CACHE_SIDECAR_SOCKET"] = SOCKET
        if self.quit_port is not None:
            found["CACHE_SIDECAR_QUIT_URL"] = f"http://127.0.0.1:{self.quit_port}/quit"
            found["CACHE_SIDECAR_QUIT_TOKEN_FILE"] = QUIT_TOKEN_FILE
        return found

    @property
    def mounts(self) -> list[Object]:
        """The mounts of the other containers."""
        return mounts_of_others(has_socket=self.has_socket, has_quit=self.quit_port is not None)

    @property
    def has_socket(self) -> bool:
        """Whether the other containers get a Unix socket."""
        return self.options.socket == "enabled"


def container(plan: Plan) -> Object:
    """Returns the sidecar's container, which conforms to the Pod Security profile `restricted`."""
    options = plan.options
    probe = ("cache-sidecar-probe", f"unix:{_PROBE_SOCKET}")
    made: Object = {
        "name": NAME,
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "args": ["serve"],
        "envFrom": [
            *([{"configMapRef": {"name": options.config_map}}] if options.config_map else []),
            *([{"secretRef": {"name": options.secret}}] if options.secret else []),
        ],
        "env": [{"name": f"CACHE_SIDECAR_{name}", "value": value} for name, value in _settings(plan).items()],
        "resources": {"requests": _requests(options), "limits": _limits(options)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            **({} if options.group is None else {"runAsGroup": options.group}),
            "runAsNonRoot": True,
            **({} if options.user is None else {"runAsUser": options.user}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Shows the last log lines of a failed container in `kubectl describe pod`.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(plan),
        # A busy process may take seconds to answer; one that does not answer for a minute is stuck.
        "livenessProbe": {"exec": {"command": [*probe]}, "periodSeconds": 15, "timeoutSeconds": 5, "failureThreshold": 4},
        "startupProbe": {"exec": {"command": [*probe]}, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 60},
    }
    if plan.mode == "native":
        return made | {"restartPolicy": "Always"}
    # Kubernetes starts the next container after postStart has returned, but stops all of them at once. So the sidecar waits
    # before it drains, while the application finishes its calls.
    lifecycle = {
        "postStart": {"exec": {"command": [*probe, "--wait", "60"]}},
        "preStop": {"exec": {"command": ["sleep", "5"]}},
    }
    return made | {"lifecycle": lifecycle}


def _requests(options: Options) -> dict[str, str]:
    storage = options.ephemeral_storage_request or options.ephemeral_storage_limit
    return {"cpu": options.cpu_request, "memory": options.memory_request} | ({"ephemeral-storage": storage} if storage else {})


def _limits(options: Options) -> dict[str, str]:
    storage = options.ephemeral_storage_limit
    return {"cpu": options.cpu_limit, "memory": options.memory_limit} | ({"ephemeral-storage": storage} if storage else {})


def _settings(plan: Plan) -> dict[str, str]:
    options = plan.options
    settings = {
        "LISTEN_ADDRESS": "" if plan.port is None else f"127.0.0.1:{plan.port}",
        "LISTEN_SOCKET": SOCKET if plan.has_socket else "",
        "PROBE_SOCKET": _PROBE_SOCKET,
        "L1_MAX_BYTES": str(options.l1_bytes),
        "LOG_LEVEL": options.log_level,
        "DRAIN_SECONDS": options.drain_seconds,
    }
    if options.policy or options.policy_config_map:
        settings["POLICY_FILE"] = f"{_POLICY_PATH}/policy.toml"
    if options.redis_tls != "disabled":
        settings["REDIS_TLS"] = "true"
    for files in secret_files.list_secret_files(options):
        settings |= files.values
    if plan.quit_port is not None:
        settings["QUIT_ADDRESS"] = f"127.0.0.1:{plan.quit_port}"
        settings["QUIT_TOKEN_FILE"] = QUIT_TOKEN_FILE
    return settings


def mounts_of_others(*, has_socket: bool, has_quit: bool) -> list[Object]:
    """Returns the mounts of the containers that use the sidecar."""
    wanted = [(SOCKET_VOLUME, MOUNT_PATH, has_socket), (QUIT_VOLUME, QUIT_PATH, has_quit)]
    return [{"name": name, "mountPath": path, "readOnly": True} for name, path, is_wanted in wanted if is_wanted]


def _mounts(plan: Plan) -> list[Object]:
    mounts: list[Object] = []
    if plan.has_socket:
        mounts.append({"name": SOCKET_VOLUME, "mountPath": MOUNT_PATH})
    mounts.append({"name": PROBE_VOLUME, "mountPath": _PROBE_PATH})
    if plan.quit_port is not None:
        mounts.append({"name": QUIT_VOLUME, "mountPath": QUIT_PATH})
    # Hides the service account's token: Kubernetes mounts it unless something else is mounted at its path.
    mounts.append({"name": NO_TOKEN_VOLUME, "mountPath": _TOKEN_PATH, "readOnly": True})
    if plan.options.policy or plan.options.policy_config_map:
        mounts.append({"name": POLICY_VOLUME, "mountPath": _POLICY_PATH, "readOnly": True})
    return mounts + [files.mount for files in secret_files.list_secret_files(plan.options)]


def volumes(plan: Plan) -> list[Object]:
    """Returns the volumes that the sidecar needs."""
    options = plan.options
    names = [
        *([SOCKET_VOLUME] if plan.has_socket else []),
        PROBE_VOLUME,
        *([QUIT_VOLUME] if plan.quit_port is not None else []),
        NO_TOKEN_VOLUME,
    ]
    found: list[Object] = [{"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}} for name in names]
    if options.policy:
        # The kubelet updates the file when the annotation changes, even while the pod runs.
        item = {"path": "policy.toml", "fieldRef": {"fieldPath": "metadata.annotations['cache-sidecar.io/policy']"}}
        found.append({"name": POLICY_VOLUME, "downwardAPI": {"items": [item]}})
    elif options.policy_config_map:
        found.append({"name": POLICY_VOLUME, "configMap": {"name": options.policy_config_map}})
    return found + [files.volume for files in secret_files.list_secret_files(options)]
