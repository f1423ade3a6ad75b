"""What can be said about an injected sidecar: the defaults in the injector's configuration, and per pod by annotations."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from cache_sidecar import __version__
from cache_sidecar.config import policy
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import quantity

MIB = 1024 * 1024
# What the process needs beside cached entries, and what of the rest L1 may have: entries are counted with their overhead,
# but replies in flight and fragmentation are not.
PROCESS_BYTES = 96 * MIB
L1_SHARE = 0.75
LEAST_L1_BYTES = 8 * MIB

# distribution/reference, without its limits on the length of parts.
_IMAGE = re.compile(
    r"[a-z0-9]+(?:[._:/-]+[a-zA-Z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


def _is_image(text: str) -> str:
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} must be an image, such as registry.example/cache-sidecar:1.2.3")
    return text


def _is_quantity(text: str) -> str:
    if quantity.parse(text) <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return text


def _is_name(text: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} must be the name of an object in the pod's namespace")
    return text


def _is_port(text: str) -> str:
    if text != "none" and not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1024 <= int(text) <= 65535):
        raise ValueError(f"{text[:80]!r} must be a port from 1024 to 65535, or none")
    return text


def _is_policy(text: str) -> str:
    if len(text) > 16_384:
        raise ValueError(
            "must not be longer than 16,384 characters: put it into a ConfigMap and name that in policy-config-map"
        )
    try:
        policy.parse(text, origin="the policy", base=policy.default())
    except SettingsError as error:
        raise ValueError(str(error)) from None
    return text


def _is_seconds(text: str) -> str:
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 600):
        raise ValueError(f"{text[:80]!r} must be whole seconds, at most 600")
    return text


Quantity = Annotated[str, AfterValidator(_is_quantity)]
Name = Annotated[str, AfterValidator(_is_name)]


class Options(BaseModel):
    """One field per annotation `cache-sidecar.io/...`, with `-` for `_`; the text is what the annotation would say."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: Annotated[str, AfterValidator(_is_image)] = f"cache-sidecar:{__version__}"
    "Image of the sidecar."
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    "When the image is pulled: `Always`, `IfNotPresent` or `Never`."
    mode: Literal["auto", "native", "classic"] = "auto"
    "`native` sidecar (Kubernetes 1.29 and later) or `classic` container; `auto` goes by the cluster's version."
    cpu_request: Quantity = "100m"
    "CPU that is kept for the sidecar."
    cpu_limit: Quantity = "1"
    "CPU that it may use."
    memory_request: Quantity = "320Mi"
    "Memory that is kept for it."
    memory_limit: Quantity = "320Mi"
    "Memory that it may use; what L1 gets follows from it."
    l1_size: Annotated[str, AfterValidator(lambda text: text and _is_quantity(text))] = ""
    "Memory for cached entries; empty for three quarters of what the memory limit leaves above 96Mi."
    port: Annotated[str, AfterValidator(_is_port)] = "50051"
    "Port on the loopback interface, 1024 to 65535, or `none` for the socket only."
    socket: Literal["enabled", "disabled"] = "enabled"
    "Whether there is a unix socket: `enabled` or `disabled`."
    config_map: Name = "cache-sidecar"
    "ConfigMap in the pod's namespace whose keys are settings, such as CACHE_SIDECAR_REDIS_NODES; empty for none."
    secret: Name = "cache-sidecar"
    "Secret there whose keys are settings, such as CACHE_SIDECAR_POSTGRES_CATALOG; empty for none."
    redis_tls: Literal["disabled", "server", "mutual"] = "disabled"
    "TLS to Redis: `server` trusts the `ca.crt` of `redis-tls-secret`, `mutual` shows its `tls.crt` and `tls.key` as well."
    redis_tls_secret: Name = "cache-sidecar-redis-tls"
    "Secret with those files."
    policy: Annotated[str, AfterValidator(_is_policy)] = ""
    "TOML put over the built-in policy, such as `product.l2_ttl = 600`."
    policy_config_map: Name = ""
    "ConfigMap with such TOML under the key `policy.toml`."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Minimum log level: `debug`, `info`, `warning` or `error`."
    drain_seconds: Annotated[str, AfterValidator(_is_seconds)] = "10"
    "Seconds that calls in progress get when the sidecar stops; at most 600."

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if quantity.parse(self.cpu_request) > quantity.parse(self.cpu_limit):
            raise ValueError(f"cpu-request {self.cpu_request} is above cpu-limit {self.cpu_limit}")
        if quantity.parse(self.memory_request) > quantity.parse(self.memory_limit):
            raise ValueError(f"memory-request {self.memory_request} is above memory-limit {self.memory_limit}")
        room = int(quantity.parse(self.memory_limit)) - PROCESS_BYTES
        if int(room * L1_SHARE) < LEAST_L1_BYTES:
            raise ValueError(f"memory-limit {self.memory_limit} is too little: at least 107Mi")
        if self.l1_size and not MIB <= quantity.parse(self.l1_size) <= room:
            raise ValueError(
                f"l1-size {self.l1_size} does not fit memory-limit {self.memory_limit}: from 1Mi to {room // MIB}Mi, "
                "as the process itself needs 96Mi"
            )
        if self.port == "none" and self.socket == "disabled":
            raise ValueError("port is none and socket is disabled: the application could not reach the sidecar")
        if self.policy and self.policy_config_map:
            raise ValueError("policy and policy-config-map are both set: keep one of them")
        if self.redis_tls != "disabled" and not self.redis_tls_secret:
            raise ValueError(f"redis-tls is {self.redis_tls}: redis-tls-secret must name the Secret with its files")
        return self

    @property
    def l1_bytes(self) -> int:
        """Bytes for cached entries."""
        if self.l1_size:
            return int(quantity.parse(self.l1_size))
        mebibytes = int((int(quantity.parse(self.memory_limit)) - PROCESS_BYTES) * L1_SHARE) // MIB
        return mebibytes * MIB
