"""The policy: how each dataset is cached."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from cache_sidecar.errors import SettingsError

Seconds = Annotated[float, Ge(0), Le(30 * 86400)]


class DatasetPolicy(BaseModel):
    """Times in seconds; what each one means is written in policy.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    l1_soft_ttl: Seconds
    l1_hard_ttl: Seconds
    l2_ttl: Annotated[float, Gt(0), Le(30 * 86400)]
    jitter: Annotated[float, Ge(0), Le(0.5)] = 0.1
    negative_ttl: Seconds
    stale_limit: Seconds
    max_lifetime: Annotated[float, Ge(0), Le(400 * 86400)] = 0
    staleness_bound: Annotated[float, Gt(0), Le(86400)] = 10
    inspect_every: Annotated[int, Ge(0), Le(1_000_000_000)] = 1000

    @model_validator(mode="after")
    def _ordered(self) -> "DatasetPolicy":
        if self.l1_soft_ttl > self.l1_hard_ttl:
            raise ValueError(f"l1_soft_ttl ({self.l1_soft_ttl:g}) must not be above l1_hard_ttl ({self.l1_hard_ttl:g})")
        return self

    @property
    def touch_window(self) -> float:
        """Seconds by which PostgreSQL's knowledge of a sliding expiry may be behind: 5 minutes of 30."""
        return min(300.0, self.l2_ttl / 6)


Policy = Mapping[str, DatasetPolicy]

_SHAPE = TypeAdapter(dict[str, DatasetPolicy])


def parse(text: str, *, origin: str, base: Policy | None = None) -> Policy:
    """Returns the policy that a TOML text says, put over `base`; `origin` names the text in errors.

    Raises SettingsError for what is no TOML, an unknown dataset or key, or a value out of range.
    """
    try:
        changes = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{origin} is not TOML: {error}") from None
    tables = {name: dataset.model_dump() for name, dataset in (base or {}).items()}
    for name, values in changes.items():
        if base is not None and name not in base:
            raise SettingsError(f"{origin}: there is no dataset {name!r}; there are: {', '.join(sorted(base))}")
        if not isinstance(values, dict):
            raise SettingsError(f"{origin}: {name} must be a table: [{name}]")
        tables[name] = tables.get(name, {}) | values
    try:
        return _SHAPE.validate_python(tables)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {_first_line(error)}") from None


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is no key of a dataset; there are: {', '.join(DatasetPolicy.model_fields)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def default() -> Policy:
    """Returns the policy that ships with the sidecar."""
    return parse(resources.files("cache_sidecar").joinpath("policy.toml").read_text(), origin="policy.toml")


def load(file: str) -> Policy:
    """Returns the built-in policy with that of a file, if one is named, put over it. Raises SettingsError."""
    if not file:
        return default()
    try:
        text = Path(file).read_text()
    except OSError as error:
        raise SettingsError(f"cannot read the policy file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the policy file {file} is not UTF-8 text") from None
    return parse(text, origin=file, base=default())
