"""Settings: the only place that reads the environment. `cache-sidecar config` prints them all."""

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cache_sidecar.errors import SettingsError

PREFIX = "CACHE_SIDECAR_"
MIB = 1024 * 1024
ROLES = ("catalog",)
# Variables with our prefix that are not settings: the file's name, what applications are told, and what Kubernetes sets
# in every pod of a namespace that has a Service called cache-sidecar.
_FOREIGN = re.compile("config|address|socket|service_(host|port.*)|port(_.*)?")


class Settings(BaseSettings):
    """What can be set, by a variable CACHE_SIDECAR_NAME or a line `name = value` in a TOML file; the variable wins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    namespace: str = Field("cs", pattern=r"^[a-z0-9_]{1,16}$")
    "Starts the name of every key, channel and function in Redis, so that others can share it."

    listen_address: str = "127.0.0.1:50051"
    "Where gRPC is served: host:port, port 0 for any free one; empty for the unix socket only."
    listen_socket: str = ""
    "Path of a unix socket that serves the same; empty for none."
    listen_socket_mode: str = Field("0660", pattern=r"^0?[0-7]{3}$")
    "File mode of the unix socket, in octal."

    redis_nodes: Annotated[tuple[str, ...], NoDecode] = Field(min_length=1)
    "The shared Redis or Valkey: host:port, one or more nodes of a cluster, separated by commas."
    redis_mode: Literal["auto", "cluster", "single"] = "auto"
    "Whether it is a cluster; auto asks it, and expects a cluster while it does not answer and several nodes are named."
    redis_username: str = ""
    "ACL user; empty for the default user."
    redis_password: SecretStr = SecretStr("")
    "Password of that user."
    redis_tls: bool = False
    "Whether to connect by TLS."
    redis_tls_ca: str = ""
    "File with the certificates to trust; empty for the system's."
    redis_tls_cert: str = ""
    "File with the client certificate, for mutual TLS."
    redis_tls_key: str = ""
    "File with its key."
    redis_timeout: float = Field(0.25, gt=0, le=10)
    "Seconds that one Redis command may take."
    redis_max_connections: int = Field(32, ge=1, le=1000)
    "Connections to each Redis node."

    postgres_catalog: SecretStr = Field(min_length=1)
    "PostgreSQL with products, inventory and reservations: postgresql://user:password@host:port/database."
    postgres_user: SecretStr = SecretStr("")
    "PostgreSQL with sessions and carts; empty for the same as postgres_catalog."
    postgres_analytics: SecretStr = SecretStr("")
    "PostgreSQL with behaviour and recommendations; empty for the same as postgres_catalog."
    postgres_pool_size: int = Field(8, ge=1, le=200)
    "Connections to each PostgreSQL."
    postgres_timeout: float = Field(2.0, gt=0, le=60)
    "Seconds that one piece of work in PostgreSQL may take."
    postgres_prepare: bool = True
    "Whether statements are prepared; turn it off behind a PgBouncer before 1.21 in transaction mode."

    l1_max_bytes: int = Field(160 * MIB, ge=MIB)
    "Memory for cached entries, overhead included, in bytes."
    l1_max_entries: int = Field(1_000_000, ge=1)
    "Number of cached entries."

    max_concurrent_calls: int = Field(2000, ge=1)
    "Unary calls in progress; one more is refused with RESOURCE_EXHAUSTED."
    max_streams: int = Field(200, ge=1)
    "Watch streams in progress; one more is refused with RESOURCE_EXHAUSTED."
    max_message_bytes: int = Field(4 * MIB, ge=1024, le=64 * MIB)
    "Size of a request or reply, in bytes."
    drain_seconds: float = Field(10.0, ge=0, le=600)
    "Seconds that calls in progress get to finish when the sidecar stops."

    region: str = Field("local", pattern=r"^[a-z0-9-]{1,32}$")
    "Name of the region whose Redis a relay tells of changes."
    change_retention: float = Field(3600.0, ge=60)
    "Seconds that the relay keeps delivered changes, for watchers that resume."

    policy_file: str = ""
    "TOML file whose values are put over the built-in policy.toml."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Least level that is logged."
    log_format: Literal["auto", "json", "console"] = "auto"
    "How log lines look; auto is console in a terminal, else json."

    @field_validator("redis_nodes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(node.strip() for node in value.split(",") if node.strip()) if isinstance(value, str) else value

    @field_validator("redis_nodes")
    @classmethod
    def _are_addresses(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for node in nodes:
            split_address(node)
        return nodes

    @field_validator("listen_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @field_validator("postgres_catalog", "postgres_user", "postgres_analytics")
    @classmethod
    def _is_dsn(cls, value: SecretStr) -> SecretStr:
        dsn = value.get_secret_value()
        if dsn and not dsn.startswith(("postgresql://", "postgres://")):
            raise ValueError("must be a URI such as postgresql://user:password@host:5432/database")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.listen_address and not self.listen_socket:
            raise ValueError("listen_address and listen_socket are both empty: set one of them")
        if bool(self.redis_tls_cert) != bool(self.redis_tls_key):
            raise ValueError("redis_tls_cert and redis_tls_key go together: set both or neither")
        return self

    def database(self, role: str) -> str:
        """Returns the DSN of the role `catalog`, `user` or `analytics`."""
        own: SecretStr = getattr(self, f"postgres_{role}")
        return own.get_secret_value() or self.postgres_catalog.get_secret_value()

    @classmethod
    def settings_customise_sources(  # the arguments are passed by name
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as initial values."""
        return env_settings, init_settings


def load(file: str | None = None) -> Settings:
    """Returns the settings of the environment and of a TOML file (also named by CACHE_SIDECAR_CONFIG).

    Raises SettingsError with one line that says what is wrong and what would be right.
    """
    return _validated(_file_values(file))


class Setting(NamedTuple):
    """One line of `cache-sidecar config`."""

    name: str
    value: str
    origin: str
    meaning: str


def describe(file: str | None = None) -> list[Setting]:
    """Returns every setting with its value (secrets hidden), where it comes from, and what it means."""
    values = _file_values(file)
    settings = _validated(values)
    lines = []
    for name, info in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        origin = variable if variable in os.environ else str(_file_name(file)) if name in values else "default"
        lines.append(Setting(name, _shown(getattr(settings, name)), origin, info.description or ""))
    return lines


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _file_name(file: str | None) -> str | None:
    return file or os.environ.get(PREFIX + "CONFIG") or None


def _file_values(file: str | None) -> dict[str, Any]:
    name = _file_name(file)
    if not name:
        return {}
    try:
        values = tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name} is not TOML: {error}") from None
    for key in values:
        if key not in Settings.model_fields:
            raise SettingsError(f"{name}: {_unknown(key)}")
    return values


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"there is no setting {key!r}" + (f", did you mean {close[0]!r}?" if close else "; see `cache-sidecar config`")


def _validated(values: dict[str, Any]) -> Settings:
    for variable in os.environ:
        key = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and not _FOREIGN.fullmatch(key) and key not in Settings.model_fields:
            raise SettingsError(f"{variable}: {_unknown(key)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        meaning = Settings.model_fields[name].description
        return f"{name} is not set: give {PREFIX}{name.upper()} or a line in the settings file. {meaning}"
    problem = first["msg"].removeprefix("Value error, ")
    return f"{name}: {problem}" if name else problem


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port` or `[v6]:port`; raises ValueError with a sentence."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} must be host:port, such as 127.0.0.1:6379")
    return host.strip("[]"), int(port)
