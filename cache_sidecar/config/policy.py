"""The policy: how each dataset is cached."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from cache_sidecar.core.errors import SettingsError

Seconds = Annotated[float, Ge(0), Le(30 * 86400)]


class DatasetPolicy(BaseModel):
    """Times in seconds; what each one means is written in policy.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    l1_soft_ttl: Seconds
    l1_hard_ttl: Seconds
    l2_ttl: Annotated[float, Gt(0), Le(30 * 86400)]
    jitter: Annotated[float, Ge(0), Le(0.5)] = 0.1
    negative_ttl: Seconds
    stale_limit: Seconds
    max_lifetime: Annotated[float, Ge(0), Le(400 * 86400)] = 0
    staleness_bound: Annotated[float, Gt(0), Le(86400)] = 10
    inspect_every: Annotated[int, Ge(0), Le(1_000_000_000)] = 1000
    rollout: Annotated[float, Ge(0), Le(100)] = 100
    shadow: bool = False
    l1_enabled: bool = True
    l2_enabled: bool = True
    native_hits: bool = True

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
Tables = Mapping[str, Mapping[str, Any]]
"""What a TOML text says: values by dataset and key."""

_SHAPE = TypeAdapter(dict[str, DatasetPolicy])
_ALL_OF_IT = {"rollout": 100, "shadow": False, "l2_enabled": True}
# Datasets that cannot do without Redis, and why.
_ALWAYS_IN_REDIS = {"session": "the uses of a session are counted in Redis, and one that went past it would be lost"}


def tables(text: str, *, origin: str) -> Tables:
    """Returns what a TOML text says; `origin` names it in errors. Raises SettingsError."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{origin} is not TOML: {error}") from None
    for name, values in found.items():
        if not isinstance(values, dict):
            raise SettingsError(f"{origin}: {name} must be a table: [{name}]")
    return found


def read(file: str) -> Tables:
    """Returns what a file says; nothing when none is named. Raises SettingsError."""
    if not file:
        return {}
    try:
        text = Path(file).read_text()
    except OSError as error:
        raise SettingsError(f"cannot read the policy file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the policy file {file} is not UTF-8 text") from None
    return tables(text, origin=file)


def over(base: Policy, changes: Tables, *, origin: str) -> Policy:
    """Returns a policy with values put over it; `origin` names where they are from.

    Raises SettingsError for an unknown dataset or key, a value out of range, and values that make no sense together.
    """
    for name in changes:
        if name not in base:
            raise SettingsError(f"{origin}: there is no dataset {name!r}; there are: {', '.join(sorted(base))}")
    changed = _validated({name: {**dataset.model_dump(), **changes.get(name, {})} for name, dataset in base.items()}, origin)
    for name, reason in _ALWAYS_IN_REDIS.items():
        for key, value in _ALL_OF_IT.items():
            if name in changed and getattr(changed[name], key) != value:
                raise SettingsError(f"{origin}: {name}.{key} must be {str(value).lower()}: {reason}")
    return changed


def parse(text: str, *, origin: str, base: Policy) -> Policy:
    """Returns a policy with what a TOML text says put over it; `origin` names the text in errors. Raises SettingsError."""
    return over(base, tables(text, origin=origin), origin=origin)


def _validated(values: Tables, origin: str) -> Policy:
    try:
        return _SHAPE.validate_python(values)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {_first_line(error)}") from None


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a policy key; the keys are: {', '.join(DatasetPolicy.model_fields)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def default() -> Policy:
    """Returns the policy that ships with the sidecar."""
    text = resources.files("cache_sidecar.config").joinpath("policy.toml").read_text()
    return _validated(tables(text, origin="policy.toml"), "policy.toml")


def load(file: str, base: Policy | None = None) -> Policy:
    """Returns the policy that ships, or `base`, with that of a file, if one is named, put over it. Raises SettingsError."""
    return over(default() if base is None else base, read(file), origin=file)
