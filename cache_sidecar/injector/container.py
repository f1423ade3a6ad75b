"""The sidecar as a container of a pod, and the volumes it needs."""

from typing import Any, Literal, NamedTuple

from cache_sidecar.injector.options import Options

NAME = "cache-sidecar"
GROUP = 65532
"User and group of the sidecar; the pod gets the group, and with it every container may use the socket."
MOUNT_PATH = "/run/cache-sidecar"
SOCKET = f"{MOUNT_PATH}/grpc.sock"
SOCKET_VOLUME = "cache-sidecar-socket"
NO_TOKEN_VOLUME = "cache-sidecar-no-token"
POLICY_VOLUME = "cache-sidecar-policy"
TLS_VOLUME = "cache-sidecar-redis-tls"
VOLUMES = frozenset({SOCKET_VOLUME, NO_TOKEN_VOLUME, POLICY_VOLUME, TLS_VOLUME})

_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_POLICY_PATH = "/etc/cache-sidecar/policy"
_TLS_PATH = "/etc/cache-sidecar/redis-tls"

Mode = Literal["native", "classic"]
Object = dict[str, Any]


class Plan(NamedTuple):
    """Everything that is settled about the sidecar of one pod."""

    options: Options
    mode: Mode
    port: int | None
    quit_port: int | None
    "Port of `POST /quit`, for a pod that is to end while its sidecar is a container like any other."

    @property
    def told(self) -> dict[str, str]:
        """The variables that applications get."""
        told = {}
        if self.port is not None:
            told["CACHE_SIDECAR_ADDRESS"] = f"127.0.0.1:{self.port}"
        if self.has_socket:
            told["CACHE_SIDECAR_SOCKET"] = SOCKET
        if self.quit_port is not None:
            told["CACHE_SIDECAR_QUIT_URL"] = f"http://127.0.0.1:{self.quit_port}/quit"
        return told

    @property
    def has_socket(self) -> bool:
        """Whether there is a unix socket."""
        return self.options.socket == "enabled"


def container(plan: Plan) -> Object:
    """Returns the container. It passes the Pod Security profile `restricted`."""
    options = plan.options
    probe = ["cache-sidecar-probe", f"unix:{SOCKET}" if plan.has_socket else f"127.0.0.1:{plan.port}"]
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
        "resources": {
            "requests": {"cpu": options.cpu_request, "memory": options.memory_request},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": GROUP,
            "runAsNonRoot": True,
            "runAsUser": GROUP,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # The first line of what went wrong shows in `kubectl describe pod`.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(plan),
        # A busy process may take seconds to answer; one that does not for a minute is stuck.
        "livenessProbe": {"exec": {"command": probe}, "periodSeconds": 15, "timeoutSeconds": 5, "failureThreshold": 4},
        "startupProbe": {"exec": {"command": probe}, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 60},
    }
    if plan.mode == "native":
        return made | {"restartPolicy": "Always"}
    # Kubernetes starts the next container when postStart is over, and ends all of them at once: so the sidecar waits before
    # it drains, for the application to end its own calls.
    lifecycle = {
        "postStart": {"exec": {"command": [*probe, "--wait", "60"]}},
        "preStop": {"exec": {"command": ["sleep", "5"]}},
    }
    return made | {"lifecycle": lifecycle}


def _settings(plan: Plan) -> dict[str, str]:
    options = plan.options
    settings = {
        "LISTEN_ADDRESS": "" if plan.port is None else f"127.0.0.1:{plan.port}",
        "LISTEN_SOCKET": SOCKET if plan.has_socket else "",
        "L1_MAX_BYTES": str(options.l1_bytes),
        "LOG_LEVEL": options.log_level,
        "DRAIN_SECONDS": options.drain_seconds,
    }
    if options.policy or options.policy_config_map:
        settings["POLICY_FILE"] = f"{_POLICY_PATH}/policy.toml"
    if options.redis_tls != "disabled":
        settings |= {"REDIS_TLS": "true", "REDIS_TLS_CA": f"{_TLS_PATH}/ca.crt"}
    if options.redis_tls == "mutual":
        settings |= {"REDIS_TLS_CERT": f"{_TLS_PATH}/tls.crt", "REDIS_TLS_KEY": f"{_TLS_PATH}/tls.key"}
    if plan.quit_port is not None:
        settings["QUIT_ADDRESS"] = f"127.0.0.1:{plan.quit_port}"
    return settings


def _mounts(plan: Plan) -> list[Object]:
    mounts: list[Object] = []
    if plan.has_socket:
        mounts.append({"name": SOCKET_VOLUME, "mountPath": MOUNT_PATH})
    # Kubernetes mounts the service account's token wherever nothing else is mounted at its place.
    mounts.append({"name": NO_TOKEN_VOLUME, "mountPath": _TOKEN_PATH, "readOnly": True})
    if plan.options.policy or plan.options.policy_config_map:
        mounts.append({"name": POLICY_VOLUME, "mountPath": _POLICY_PATH, "readOnly": True})
    if plan.options.redis_tls != "disabled":
        mounts.append({"name": TLS_VOLUME, "mountPath": _TLS_PATH, "readOnly": True})
    return mounts


def volumes(plan: Plan) -> list[Object]:
    """Returns the volumes of the pod that the sidecar needs."""
    options = plan.options
    found: list[Object] = []
    if plan.has_socket:
        found.append({"name": SOCKET_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    found.append({"name": NO_TOKEN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    if options.policy:
        # The kubelet keeps the file in step with the annotation, also while the pod runs.
        item = {"path": "policy.toml", "fieldRef": {"fieldPath": "metadata.annotations['cache-sidecar.io/policy']"}}
        found.append({"name": POLICY_VOLUME, "downwardAPI": {"items": [item]}})
    elif options.policy_config_map:
        found.append({"name": POLICY_VOLUME, "configMap": {"name": options.policy_config_map}})
    if options.redis_tls != "disabled":
        found.append({"name": TLS_VOLUME, "secret": {"secretName": options.redis_tls_secret, "defaultMode": 0o440}})
    return found
