"""The injector's configuration: a TOML file, shared by the webhook and the commands."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cache_sidecar.config.settings import split_address
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector.annotations import first_line
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.workloads import check_templates

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

OLDEST, NEWEST = (1, 25), (1, 37)
"The Kubernetes versions that this is tested with."


def parse_version(text: str) -> tuple[int, int]:
    """Returns major and minor of `1.34`, `v1.34.2` or `1.34+`. Raises ValueError with a message for users."""
    found = re.match(r"v?(\d{1,3})\.(\d{1,3})(?!\d)", text, re.ASCII)
    if not found:
        raise ValueError(f"{text[:40]!r} must be a Kubernetes version, such as 1.34")
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise ValueError(f"Kubernetes {text[:40]} is older than 1.25, the oldest supported version")
    return version


def _is_address(text: str) -> str:
    split_address(text)
    return text


def _is_https(text: str) -> str:
    if not re.fullmatch(r"https://[^/?#@]+", text):
        raise ValueError(f"{text[:80]!r} must be a URL such as https://10.0.0.1:6443")
    return text


def _is_version(text: str) -> str:
    if text:
        parse_version(text)
    return text


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerConfig(_Section):
    """`[server]`: the process of the webhook."""

    listen: Annotated[str, AfterValidator(_is_address)] = "0.0.0.0:8443"
    "Address of the webhook, host:port. TLS."
    web: Annotated[str, AfterValidator(_is_address)] = "0.0.0.0:8080"
    "Address of /healthz, /readyz and /metrics, host:port. No TLS."
    namespace: str = ""
    "Namespace of the injector. Default: that of its service account."
    service: str = "cache-sidecar-injector"
    "Name of the injector's Service; its certificate is issued for this name."
    client_ca_file: str = ""
    "PEM file with the CAs that the API server's client certificate must be signed by (mTLS); empty if none is required."
    allowed_clients: tuple[str, ...] = ()
    "Common names, DNS names or URIs of client certificates that may send reviews; empty for all that the CAs have signed."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Minimum log level."

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.allowed_clients and not self.client_ca_file:
            raise ValueError("allowed_clients requires client_ca_file: without it clients present no certificate")
        return self


class ApiConfig(_Section):
    """`[api]`: the connection to the Kubernetes API server. The defaults work in a pod."""

    url: Annotated[str, AfterValidator(_is_https)] = "https://kubernetes.default.svc"
    "URL of the API server."
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    "File with the bearer token; read for every request."
    ca_file: str = f"{SERVICE_ACCOUNT}/ca.crt"
    "File with the trusted CA certificates."


class CertificateConfig(_Section):
    """`[certificates]`: where the webhook's certificate comes from."""

    source: Literal["self", "files"] = "self"
    "`self` issues and renews a certificate and updates the caBundle; `files` reads it, such as from cert-manager."
    cert_file: str = "/etc/cache-sidecar-injector-tls/tls.crt"
    "With `files`: the certificate, including intermediate certificates."
    key_file: str = "/etc/cache-sidecar-injector-tls/tls.key"
    "With `files`: the private key."
    secret: str = "cache-sidecar-injector-tls"
    "With `self`: the Secret in which the replicas share the certificate."
    webhook: str = "cache-sidecar-injector"
    "With `self`: the MutatingWebhookConfiguration whose caBundle is kept up to date."
    lifetime: Annotated[float, Field(ge=60, le=365 * 86400)] = 30 * 86400
    "With `self`: validity of a certificate in seconds. It is renewed after two thirds; its CA is valid 12 times as long."

    refresh: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    "Seconds between two checks of the certificate."


class ReconcilerConfig(_Section):
    """`[reconciler]`: how to handle pods that should have a sidecar but have none."""

    mode: Literal["off", "report", "evict"] = "report"
    "`report` counts them and creates Events; `evict` also evicts them, so that their controllers recreate them; or `off`."
    interval: Annotated[float, Field(ge=1, le=86400)] = 60.0
    "Seconds between two checks."
    evictions_per_minute: Annotated[int, Field(ge=1, le=600)] = 2
    "Maximum number of evictions per minute."


class InjectorConfig(_Section):
    """Keys of the file; `[sidecar]` holds the defaults that a pod's annotations override."""

    kubernetes_version: Annotated[str, AfterValidator(_is_version)] = ""
    "Kubernetes version to inject for. Default: the version of the cluster, or, for the commands, the newest."
    bad_annotations: Literal["deny", "skip"] = "deny"
    "Whether a pod with a bad annotation is denied (`deny`), or created without a sidecar and with an Event (`skip`)."
    sidecar: Options = Options()
    "Options of every sidecar."
    server: ServerConfig = ServerConfig()
    "The process of the webhook."
    api: ApiConfig = ApiConfig()
    "The API server of Kubernetes."
    certificates: CertificateConfig = CertificateConfig()
    "The webhook's certificate."
    reconciler: ReconcilerConfig = ReconcilerConfig()
    "Pods that should have a sidecar but have none."
    pod_templates: Annotated[dict[str, str], AfterValidator(check_templates)] = {}
    'For the commands: ways to the pod templates of further kinds, such as `"Shop.example.com" = "spec.groups[].template"`.'


def load(*files: str, kubernetes_version: str = "") -> InjectorConfig:
    """Returns the configuration from files, or the defaults. Raises SettingsError.

    Later files override earlier ones, key by key; `kubernetes_version` overrides all of them.
    """
    values: dict[str, Any] = {}
    for file in files:
        for name, value in _values(file).items():
            known = values.get(name)
            values[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    if kubernetes_version:
        values["kubernetes_version"] = kubernetes_version
    try:
        return InjectorConfig.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{', '.join(files)}: {_describe(error)}" if files else _describe(error)) from None


def _values(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the injector's configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None


def _describe(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "extra_forbidden":
        model: Any = InjectorConfig
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        return f"unknown key {'.'.join(map(str, first['loc']))}; known keys: {', '.join(model.model_fields)}"
    return first_line(error, prefix="")
