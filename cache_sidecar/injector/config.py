"""What the injector itself is told: a TOML file, the same for the webhook and for the command."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from cache_sidecar.errors import SettingsError
from cache_sidecar.injector.annotations import first_line
from cache_sidecar.injector.options import Options

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


def _is_version(text: str) -> str:
    if text:
        parse_version(text)
    return text


class InjectorConfig(BaseModel):
    """Keys of the file; `[sidecar]` holds the defaults that a pod's annotations override."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kubernetes_version: Annotated[str, AfterValidator(_is_version)] = ""
    "Version to inject for; empty for what the cluster says, or for the command line the newest."
    bad_annotations: Literal["deny", "skip"] = "deny"
    "Whether a pod with a bad annotation is denied, or made without a sidecar and with an Event."
    sidecar: Options = Options()
    "Options of every sidecar."


def load(file: str | None, *, kubernetes_version: str = "") -> InjectorConfig:
    """Returns the configuration in a file, or the built-in one; a version that is given wins. Raises SettingsError."""
    values = _values(file) if file else {}
    if kubernetes_version:
        values["kubernetes_version"] = kubernetes_version
    try:
        return InjectorConfig.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{file}: {_named(error)}" if file else _named(error)) from None


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
        model = Options if first["loc"][0] == "sidecar" else InjectorConfig
        return f"there is no key {'.'.join(map(str, first['loc']))}; there are: {', '.join(model.model_fields)}"
    return first_line(error, prefix="")
