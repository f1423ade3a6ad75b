"""The options of an injected sidecar: defaults in the injector's configuration, overridden by annotations of the pod."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from cache_sidecar import __version__
from cache_sidecar.config import policy
from cache_sidecar.core import container_memory
from cache_sidecar.core.container_memory import LEAST_L1_BYTES, MIB, PROCESS_BYTES
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import quantity

# distribution/reference, without its limits on the length of parts.
_IMAGE = re.compile(
    r"[a-z0-9]+(?:[._:/-]+[a-zA-Z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
# RFC 1123: parts separated by single dots.
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)


def _is_image(text: str) -> str:
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} must be an image, such as registry.example/cache-sidecar:1.2.3")
    return text


def _is_quantity(text: str) -> str:
    if quantity.parse(text) <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return text


def _is_name(text: str) -> str:
    if text and (len(text) > 253 or not _NAME.fullmatch(text)):
        raise ValueError(f"{text[:80]!r} must be the name of an object in the pod's namespace")
    return text


def _is_port(text: str) -> str:
    if text != "none" and not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1024 <= int(text) <= 65535):
        raise ValueError(f"{text[:80]!r} must be a port from 1024 to 65535, or none")
    return text


def _is_policy(text: str) -> str:
    if len(text) > 16_384:
        raise ValueError("must not be longer than 16,384 characters: use a ConfigMap, named by policy-config-map, instead")
    try:
        policy.parse(text, origin="the policy", base=policy.default())
    except SettingsError as error:
        raise ValueError(str(error)) from None
    return text


def _is_user(text: str) -> str:
    if text != NAMESPACE and not _is_number(text, least=1):
        raise ValueError(f"{text[:80]!r} must be a user id from 1 to 2147483647, or namespace")
    return text


def _is_group(text: str) -> str:
    if text not in {"", NAMESPACE} and not _is_number(text, least=0):
        raise ValueError(f"{text[:80]!r} must be a group id from 0 to 2147483647, or namespace")
    return text


def _is_number(text: str, *, least: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= 2**31 - 1


def _are_names(text: str) -> str:
    for name in split_names(text):
        if not name:
            raise ValueError(f"{text[:80]!r} must be names, separated by commas")
        _is_name(name)
    return text


def split_names(text: str) -> list[str]:
    """Returns the names in a text such as `one, two`."""
    return [name.strip() for name in text.split(",")] if text else []


def _is_seconds(text: str) -> str:
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 600):
        raise ValueError(f"{text[:80]!r} must be a whole number of seconds, at most 600")
    return text


NAMESPACE = "namespace"
"The value of ids that are not set, so that the namespace's range decides, as on OpenShift."

Quantity = Annotated[str, AfterValidator(_is_quantity)]
QuantityOrNone = Annotated[str, AfterValidator(lambda text: text and _is_quantity(text))]
Name = Annotated[str, AfterValidator(_is_name)]


class Options(BaseModel):
    """One field per annotation `cache-sidecar.io/...`, with `_` instead of `-`; values are text, as in annotations."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: Annotated[str, AfterValidator(_is_image)] = f"cache-sidecar:{__version__}"
    "Image of the sidecar."
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    "When to pull the image: `Always`, `IfNotPresent` or `Never`."
    image_pull_secrets: Annotated[str, AfterValidator(_are_names)] = ""
    "Secrets to pull the image with, separated by commas; they are added to those of the pod."
    mode: Literal["auto", "native", "classic"] = "auto"
    "`native` sidecar (Kubernetes 1.29 and later) or `classic` container; `auto` depends on the cluster's version."
    cpu_request: Quantity = "100m"
    "CPU request of the sidecar."
    cpu_limit: Quantity = "1"
    "CPU limit of the sidecar."
    memory_request: Quantity = "576Mi"
    "Memory request of the sidecar; if only `memory-limit` is set, the same."
    memory_limit: Quantity = "576Mi"
    "Memory limit of the sidecar; determines the size of L1."
    ephemeral_storage_request: QuantityOrNone = ""
    "Request of local storage, which holds only logs; empty for none, or if only `ephemeral-storage-limit` is set, the same."
    ephemeral_storage_limit: QuantityOrNone = ""
    "Limit of local storage; empty for none. At least 64Mi, because the kubelet keeps up to 50Mi of logs."
    user_id: Annotated[str, AfterValidator(_is_user)] = "65532"
    "User of the sidecar, or `namespace` to set neither user nor group, for clusters such as OpenShift that do by namespace."
    group_id: Annotated[str, AfterValidator(_is_group)] = ""
    "Group of the sidecar, which the pod joins so that the application can use the socket; by default as `user-id`."
    service_links: Literal["keep", "disabled"] = "keep"
    "Variables for the Services of the namespace, in all containers: `keep` what the pod says, or `disabled`."
    l1_size: QuantityOrNone = ""
    "Memory for cached entries. Default: 60 % of the memory limit above 290Mi, and at least 8Mi."
    port: Annotated[str, AfterValidator(_is_port)] = "50051"
    "Port on the loopback interface, 1024 to 65535, or `none` to use only the socket."
    socket: Literal["enabled", "disabled"] = "enabled"
    "Whether the application gets a Unix socket: `enabled` or `disabled`."
    tls: Literal["disabled", "server", "mutual"] = "disabled"
    "TLS on the port: `server` presents `tls.crt` with `tls.key`, `mutual` also requires certificates that `ca.crt` signed."
    tls_secret: Name = "cache-sidecar-tls"
    "Secret with the files for `tls`."
    tokens_secret: Name = ""
    "Secret with the accepted tokens under the key `tokens`, one per line; empty if none is required."
    config_map: Name = "cache-sidecar"
    "ConfigMap in the pod's namespace whose keys are settings, such as CACHE_SIDECAR_REDIS_NODES; empty for none."
    secret: Name = "cache-sidecar"
    "Secret in the pod's namespace whose keys are settings, such as CACHE_SIDECAR_POSTGRES_CATALOG; empty for none."
    redis_tls: Literal["disabled", "server", "mutual"] = "disabled"
    "TLS to Redis: `server` trusts the `ca.crt` of `redis-tls-secret`, `mutual` also presents its `tls.crt` with `tls.key`."
    redis_tls_secret: Name = "cache-sidecar-redis-tls"
    "Secret with the files for `redis-tls`."
    postgres_ca_secret: Name = ""
    "Secret with the CAs to trust for PostgreSQL under the key `ca.crt`; empty to trust what the connection URI says."
    files_secret: Name = ""
    "Secret whose keys become files in `/etc/cache-sidecar/files`, for settings such as redis_password_file; empty for none."
    policy: Annotated[str, AfterValidator(_is_policy)] = ""
    "TOML that overrides the built-in policy, such as `product.l2_ttl = 600`."
    policy_config_map: Name = ""
    "ConfigMap with such TOML under the key `policy.toml`."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Minimum log level: `debug`, `info`, `warning` or `error`."
    drain_seconds: Annotated[str, AfterValidator(_is_seconds)] = "10"
    "Seconds to wait for calls in progress when the sidecar stops; at most 600."

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if quantity.parse(self.cpu_request) > quantity.parse(self.cpu_limit):
            raise ValueError(f"cpu-request {self.cpu_request} is above cpu-limit {self.cpu_limit}")
        if quantity.parse(self.memory_request) > quantity.parse(self.memory_limit):
            raise ValueError(f"memory-request {self.memory_request} is above memory-limit {self.memory_limit}")
        room = int(quantity.parse(self.memory_limit)) - PROCESS_BYTES
        if room < LEAST_L1_BYTES:
            raise ValueError(f"memory-limit {self.memory_limit} is too small: at least 104Mi")
        if self.l1_size and not MIB <= quantity.parse(self.l1_size) <= room:
            raise ValueError(
                f"l1-size {self.l1_size} does not fit memory-limit {self.memory_limit}: must be 1Mi to {room // MIB}Mi, "
                "because the process itself needs 96Mi"
            )
        if self.port == "none" and self.socket == "disabled":
            raise ValueError("port is none and socket is disabled: the application cannot reach the sidecar")
        if self.policy and self.policy_config_map:
            raise ValueError("policy and policy-config-map are both set: keep one of them")
        if self.redis_tls != "disabled" and not self.redis_tls_secret:
            raise ValueError(f"redis-tls is {self.redis_tls}: redis-tls-secret must name the Secret with the certificates")
        if self.tls != "disabled" and not self.tls_secret:
            raise ValueError(f"tls is {self.tls}: tls-secret must name the Secret with the certificates")
        if self.tls != "disabled" and self.port == "none":
            raise ValueError(f"tls is {self.tls}, but port is none: the socket has no TLS")
        return self

    @model_validator(mode="after")
    def _storage_fits_together(self) -> Self:
        request, limit = self.ephemeral_storage_request, self.ephemeral_storage_limit
        if limit and quantity.parse(limit) < 64 * MIB:
            raise ValueError(f"ephemeral-storage-limit {limit} is too small: at least 64Mi")
        if request and limit and quantity.parse(request) > quantity.parse(limit):
            raise ValueError(f"ephemeral-storage-request {request} is above ephemeral-storage-limit {limit}")
        return self

    @property
    def user(self) -> int | None:
        """The user's id, None if it is not set."""
        return None if self.user_id == NAMESPACE else int(self.user_id)

    @property
    def group(self) -> int | None:
        """The group's id, None if it is not set."""
        group = self.group_id or self.user_id
        return None if group == NAMESPACE else int(group)

    @property
    def l1_bytes(self) -> int:
        """Bytes for cached entries."""
        if self.l1_size:
            return int(quantity.parse(self.l1_size))
        return container_memory.l1_bytes(int(quantity.parse(self.memory_limit)))
