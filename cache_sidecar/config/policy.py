"""The policy: how each dataset is cached."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError, model_validator

from cache_sidecar.config import experiment
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import read_file

Seconds = Annotated[float, Ge(0), Le(30 * 86400)]


class DatasetPolicy(BaseModel):
    """The policy of a dataset; policy.toml documents the keys."""

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
    commits_are_purchases: bool = False
    hide_sold_out: bool = False
    renew_after_views: Annotated[int, Ge(0), Le(1_000_000)] = 0
    # As in events, which have it, too.
    experiment_id: Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    experiment_salt: Annotated[str, MaxLen(64)] = ""
    experiment_variants: Annotated[str, MaxLen(1024)] = ""

    @model_validator(mode="after")
    def _check_order(self) -> "DatasetPolicy":
        if self.l1_soft_ttl > self.l1_hard_ttl:
            raise ValueError(f"l1_soft_ttl ({self.l1_soft_ttl:g}) must not be above l1_hard_ttl ({self.l1_hard_ttl:g})")
        if bool(self.experiment_id) != bool(experiment.parse(self.experiment_variants)):
            raise ValueError("experiment_id and experiment_variants need each other")
        return self

    @property
    def touch_window(self) -> float:
        """Seconds by which a sliding expiry in PostgreSQL may lag behind Redis: 5 minutes for a TTL of 30."""
        return min(300.0, self.l2_ttl / 6)


Policy = Mapping[str, DatasetPolicy]
Tables = Mapping[str, Mapping[str, Any]]
"""The contents of a TOML text: values by dataset and key."""

_SHAPE = TypeAdapter(dict[str, DatasetPolicy])
_FULL_REDIS = {"rollout": 100, "shadow": False, "l2_enabled": True}
# Datasets that always need Redis, and why.
_ALWAYS_IN_REDIS = {"session": "the uses of a session are recorded in Redis, and a use that bypassed it would be lost"}


# Dots that a line may have.
MAX_DOTS = 100


def tables(text: str, *, origin: str) -> Tables:
    """Parses a TOML text; `origin` names it in errors. Raises SettingsError."""
    # tomllib takes time with the square of a key's parts, seconds for a key of 16 KB; ours have two.
    if any(line.count(".") > MAX_DOTS for line in text.splitlines() if not line.lstrip().startswith("#")):
        raise SettingsError(f"{origin} is not a policy: a line has more than {MAX_DOTS} dots")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{origin} is not TOML: {error}") from None
    for name, values in found.items():
        if not isinstance(values, dict):
            raise SettingsError(f"{origin}: {name} must be a table: [{name}]")
    return found


def read(file: str) -> Tables:
    """Reads a file; without a name the result is empty. Raises SettingsError."""
    if not file:
        return {}
    try:
        text = read_file(file).decode()
    except OSError as error:
        raise SettingsError(f"cannot read the policy file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the policy file {file} is not UTF-8 text") from None
    return tables(text, origin=file)


def over(base: Policy, changes: Tables, *, origin: str) -> Policy:
    """Returns a policy with some values replaced; `origin` names their source in errors.

    Raises SettingsError for an unknown dataset or key, a value out of range, and contradictory values.
    """
    for name in changes:
        if name not in base:
            raise SettingsError(f"{origin}: there is no dataset {name!r}; there are: {', '.join(sorted(base))}")
    changed = _validate({name: {**dataset.model_dump(), **changes.get(name, {})} for name, dataset in base.items()}, origin)
    for name, reason in _ALWAYS_IN_REDIS.items():
        for key, value in _FULL_REDIS.items():
            if name in changed and getattr(changed[name], key) != value:
                raise SettingsError(f"{origin}: {name}.{key} must be {str(value).lower()}: {reason}")
    return changed


def parse(text: str, *, origin: str, base: Policy) -> Policy:
    """Returns a policy with the values of a TOML text; `origin` names the text in errors. Raises SettingsError."""
    return over(base, tables(text, origin=origin), origin=origin)


def _validate(values: Tables, origin: str) -> Policy:
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
    """Returns the built-in policy."""
    text = resources.files("cache_sidecar.config").joinpath("policy.toml").read_text()
    return _validate(tables(text, origin="policy.toml"), "policy.toml")


def load(file: str, base: Policy | None = None) -> Policy:
    """Returns the built-in policy, or `base`, with the values of a file, if one is named. Raises SettingsError."""
    return over(default() if base is None else base, read(file), origin=file)
