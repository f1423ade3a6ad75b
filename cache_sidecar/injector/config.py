"""What the injector itself is told: a TOML file, the same for the webhook and for the command."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cache_sidecar.config.settings import split_address
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector.annotations import first_line
from cache_sidecar.injector.options import Options

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

OLDEST, NEWEST = (1, 25), (1, 37)
"Versions of Kubernetes that this is tested with."


def parse_version(text: str) -> tuple[int, int]:
    """Returns major and minor of `1.34`, `v1.34.2` or `1.34+`; raises ValueError with a sentence."""
    found = re.match(r"v?(\d{1,3})\.(\d{1,3})(?!\d)", text, re.ASCII)
    if not found:
        raise ValueError(f"{text[:40]!r} must be a version of Kubernetes, such as 1.34")
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise ValueError(f"Kubernetes {text[:40]} is older than 1.25, the oldest version that is supported")
    return version


def _is_address(text: str) -> str:
    split_address(text)
    return text


def _is_https(text: str) -> str:
    if not re.fullmatch(r"https://[^/?#@]+", text):
        raise ValueError(f"{text[:80]!r} must be an address such as https://10.0.0.1:6443")
    return text


def _is_version(text: str) -> str:
    if text:
        parse_version(text)
    return text


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerConfig(_Section):
    """`[server]`: the webhook's own process."""

    listen: Annotated[str, AfterValidator(_is_address)] = "0.0.0.0:8443"
    "Where the API server reaches it, by TLS: host:port."
    web: Annotated[str, AfterValidator(_is_address)] = "0.0.0.0:8080"
    "Where /healthz, /readyz and /metrics are: host:port."
    namespace: str = ""
    "The injector's own namespace; empty for what its service account says."
    service: str = "cache-sidecar-injector"
    "Name of its Service there, which is what its certificate is for."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Minimum log level."


class ApiConfig(_Section):
    """`[api]`: how the API server of Kubernetes is reached. The defaults are those of a pod."""

    url: Annotated[str, AfterValidator(_is_https)] = "https://kubernetes.default.svc"
    "Its address."
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    "File with the token to show; read again whenever it is used."
    ca_file: str = f"{SERVICE_ACCOUNT}/ca.crt"
    "File with the certificates to trust."


class CertificateConfig(_Section):
    """`[certificates]`: where the webhook's certificate comes from."""

    source: Literal["self", "files"] = "self"
    "`self` makes and renews one, and tells the API server; `files` reads what cert-manager or you put there."
    cert_file: str = "/etc/cache-sidecar-injector-tls/tls.crt"
    "With `files`: the certificate, with those between it and the root."
    key_file: str = "/etc/cache-sidecar-injector-tls/tls.key"
    "With `files`: its key."
    secret: str = "cache-sidecar-injector-tls"
    "With `self`: the Secret in which the replicas share it."
    webhook: str = "cache-sidecar-injector"
    "With `self`: the MutatingWebhookConfiguration whose caBundle is kept up to date."
    lifetime: Annotated[float, Field(ge=60, le=365 * 86400)] = 30 * 86400
    "With `self`: seconds that a certificate is valid; it is renewed after two thirds, its authority lives 12 times as long."

    refresh: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    "Seconds between two looks at it."


class ReconcilerConfig(_Section):
    """`[reconciler]`: what is done about pods that should have a sidecar and have none."""

    mode: Literal["off", "report", "evict"] = "report"
    "`report` counts them and makes an Event for each, `evict` evicts them as well, so that their controllers make new ones."
    interval: Annotated[float, Field(ge=1, le=86400)] = 60.0
    "Seconds between two looks."
    evictions_per_minute: Annotated[int, Field(ge=1, le=600)] = 2
    "How many may be evicted."


class InjectorConfig(_Section):
    """Keys of the file; `[sidecar]` holds the defaults that a pod's annotations override."""

    kubernetes_version: Annotated[str, AfterValidator(_is_version)] = ""
    "Version to inject for; empty for what the cluster says, or for the command line the newest."
    bad_annotations: Literal["deny", "skip"] = "deny"
    "Whether a pod with a bad annotation is denied, or made without a sidecar and with an Event."
    sidecar: Options = Options()
    "Options of every sidecar."
    server: ServerConfig = ServerConfig()
    "The webhook's own process."
    api: ApiConfig = ApiConfig()
    "The API server of Kubernetes."
    certificates: CertificateConfig = CertificateConfig()
    "The webhook's certificate."
    reconciler: ReconcilerConfig = ReconcilerConfig()
    "Pods that should have a sidecar and have none."


def load(*files: str, kubernetes_version: str = "") -> InjectorConfig:
    """Returns the configuration in files, or the built-in one. Raises SettingsError.

    Of several files a later one wins, key by key; a version that is given wins over all of them.
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
        raise SettingsError(f"{', '.join(files)}: {_named(error)}" if files else _named(error)) from None


def _values(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the injector's configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not TOML: {error}") from None


def _named(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "extra_forbidden":
        model: Any = InjectorConfig
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        return f"there is no key {'.'.join(map(str, first['loc']))}; there are: {', '.join(model.model_fields)}"
    return first_line(error, prefix="")
