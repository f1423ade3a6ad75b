"""Settings: the only place that reads the environment. `cache-sidecar config` prints them all."""

import difflib
import grp
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import unquote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cache_sidecar.core.errors import SettingsError

PREFIX = "CACHE_SIDECAR_"
MIB = 1024 * 1024
ROLES = ("catalog", "user")
# Variables with our prefix that are not settings: the file's name, and what applications are told.
_FOREIGN = {"config", "address", "socket", "quit_url"}
_URI = re.compile(
    r"postgres(ql)?://([^/?#]*@)?(\[[^]/]+\]|[^][:/?#@,]*)(:\d{1,5})?(,(\[[^]/]+\]|[^][:/?#@,]*)(:\d{1,5})?)*([/?].*)?"
)


class Settings(BaseSettings):
    """What can be set, by a variable CACHE_SIDECAR_NAME or a line `name = value` in a TOML file; the variable wins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    namespace: str = Field("cs", pattern=r"^[a-z0-9_]{1,16}$")
    "Prefix of every key, channel and function in Redis, so that several applications can share it."

    listen_address: str = "127.0.0.1:50051"
    "Address of the gRPC server: host:port, port 0 for any free port; empty for the Unix socket only."
    listen_socket: str = ""
    "Path of a Unix socket that serves the same API; empty for none."
    listen_socket_mode: str = Field("0660", pattern=r"^0?[0-7]{3}$")
    "File mode of the Unix socket, in octal."

    listen_socket_group: str = Field("", coerce_numbers_to_str=True)
    "Group of the Unix socket, by name or number; empty for the group of the process."

    listen_tls_cert: str = ""
    "PEM file with the server certificate for listen_address and its intermediates; empty for no TLS."
    listen_tls_key: str = ""
    "PEM file with its key: RSA, or ECDSA on P-256 or P-384."
    listen_tls_client_ca: str = ""
    "PEM file with the CAs that client certificates must be signed by (mTLS); empty if none is required."
    allowed_clients: Annotated[tuple[str, ...], NoDecode] = ()
    "Names in client certificates that may call, such as spiffe://shop/cart or cart.shop, comma-separated; empty for all."
    access_tokens_file: str = ""
    "File with the accepted tokens, one per line, sent as `authorization: Bearer TOKEN`; empty if none is required."

    quit_address: str = ""
    "Loopback host:port where POST /quit stops the sidecar, for Jobs on Kubernetes before 1.29; empty for none."
    engine: Literal["auto", "native", "aio"] = "auto"
    "The gRPC server: native (Rust), aio (grpc.aio), or auto for native where it is installed."

    redis_nodes: Annotated[tuple[str, ...], NoDecode] = Field(min_length=1)
    "The shared Redis or Valkey: host:port of one or more nodes, comma-separated."
    redis_mode: Literal["auto", "cluster", "single"] = "auto"
    "Whether it is a cluster; auto asks it, and assumes a cluster if it does not answer and several nodes are named."
    redis_username: str = ""
    "ACL user; empty for the default user."
    redis_password: SecretStr = SecretStr("")
    "Password of that user."
    redis_tls: bool = False
    "Whether to connect with TLS."
    redis_tls_ca: str = ""
    "PEM file with the CAs to trust; empty for the system's."
    redis_tls_cert: str = ""
    "PEM file with the client certificate, for mutual TLS."
    redis_tls_key: str = ""
    "File with its key."
    redis_timeout: float = Field(0.25, gt=0, le=10)
    "Timeout of one Redis command, in seconds."
    redis_max_connections: int = Field(32, ge=1, le=1000)
    "Maximum number of connections to each Redis node."

    postgres_catalog: SecretStr = Field(min_length=1)
    "PostgreSQL with products, inventory and reservations: postgresql://user:password@host:port/database."
    postgres_user: SecretStr = SecretStr("")
    "PostgreSQL with sessions and carts; empty for the same as postgres_catalog."
    postgres_analytics: SecretStr = SecretStr("")
    "PostgreSQL with behaviour and recommendations; empty for the same as postgres_catalog."
    postgres_pool_size: int = Field(8, ge=1, le=200)
    "Maximum number of connections to each PostgreSQL."
    postgres_timeout: float = Field(2.0, gt=0, le=60)
    "Timeout of one transaction or query in PostgreSQL, in seconds."
    postgres_prepare: bool = True
    "Whether to use prepared statements; turn it off behind PgBouncer before 1.21 in transaction mode (detected otherwise)."

    l1_max_bytes: int = Field(160 * MIB, ge=MIB)
    "Memory for cached entries (L1), overhead included, in bytes."
    l1_max_entries: int = Field(1_000_000, ge=1)
    "Maximum number of cached entries (L1)."

    max_concurrent_calls: int = Field(2000, ge=1)
    "Maximum number of unary calls in progress; above it calls get RESOURCE_EXHAUSTED, product calls before cart calls."
    max_dataset_calls: int = Field(1500, ge=1)
    "The same for one dataset, such as carts, so that the others are still served."
    max_streams: int = Field(200, ge=1)
    "Maximum number of watch streams in progress; above it calls get RESOURCE_EXHAUSTED."
    max_message_bytes: int = Field(4 * MIB, ge=8192, le=64 * MIB)
    "Maximum size of a request or reply, in bytes; gRPC clients accept replies of 4 MiB by default."
    drain_seconds: float = Field(10.0, ge=0, le=600)
    "Time for calls in progress to finish when the sidecar stops, in seconds."
    max_connection_age: float = Field(0.0, ge=0, le=30 * 86400)
    "Maximum age of a client connection, in seconds plus or minus 10 %, after which it must reconnect; 0 for no limit."
    max_connection_age_grace: float = Field(30.0, ge=0, le=86400)
    "Time for the calls on such a connection, watches included, to finish, in seconds."
    max_connection_idle: float = Field(3600.0, ge=0, le=30 * 86400)
    "Idle time after which a client connection is closed, in seconds; 0 for never."
    keepalive_time: float = Field(30.0, ge=0.1, le=86400)
    "Interval of keepalive pings to clients, in seconds."
    keepalive_timeout: float = Field(10.0, ge=0.1, le=3600)
    "Time for a client to answer a ping, in seconds; then its connection and calls end."

    cart_max_items: int = Field(200, ge=1, le=500)
    "Maximum number of lines in a cart."
    cart_max_quantity: int = Field(999, ge=1, le=1_000_000)
    "Maximum quantity of a line in a cart."

    region: str = Field("local", pattern=r"^[a-z0-9-]{1,32}$")
    "Name of the region whose Redis the relay publishes changes to."
    change_retention: float = Field(3600.0, ge=60, le=30 * 86400)
    "Time for which the relay keeps published changes, for watchers that resume, in seconds."

    policy_file: str = ""
    "TOML file that overrides the built-in policy.toml."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    "Minimum log level."
    log_format: Literal["auto", "json", "console"] = "auto"
    "Log format; auto is console in a terminal, else json."

    @field_validator("redis_nodes", "allowed_clients", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("redis_nodes")
    @classmethod
    def _are_addresses(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for node in nodes:
            split_address(node)
        return nodes

    @field_validator("listen_socket_group")
    @classmethod
    def _is_group(cls, value: str) -> str:
        if value:
            group_id(value)
        return value

    @field_validator("listen_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @field_validator("quit_address")
    @classmethod
    def _is_loopback(cls, value: str) -> str:
        if value and split_address(value)[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError("must be on the loopback interface, such as 127.0.0.1:50052, as it stops the sidecar")
        return value

    @field_validator("postgres_catalog", "postgres_user", "postgres_analytics")
    @classmethod
    def _is_dsn(cls, value: SecretStr) -> SecretStr:
        dsn = value.get_secret_value()
        if dsn and not _URI.fullmatch(dsn):
            raise ValueError(
                "must be a URI such as postgresql://user:password@host:5432/database, with special characters percent-encoded"
            )
        return value

    @field_validator(
        "redis_tls_ca",
        "redis_tls_cert",
        "redis_tls_key",
        "listen_tls_cert",
        "listen_tls_key",
        "listen_tls_client_ca",
        "access_tokens_file",
    )
    @classmethod
    def _is_readable(cls, value: str) -> str:
        if value:
            try:
                Path(value).open("rb").close()
            except OSError as error:
                raise ValueError(f"cannot read {value}: {error.strerror}") from None
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.listen_address and not self.listen_socket:
            raise ValueError("listen_address and listen_socket are both empty: set one of them")
        if bool(self.redis_tls_cert) != bool(self.redis_tls_key):
            raise ValueError("redis_tls_cert and redis_tls_key go together: set both or neither")
        if bool(self.listen_tls_cert) != bool(self.listen_tls_key):
            raise ValueError("listen_tls_cert and listen_tls_key go together: set both or neither")
        if self.listen_tls_client_ca and not self.listen_tls_cert:
            raise ValueError("listen_tls_client_ca needs listen_tls_cert and listen_tls_key: set them, too")
        if self.allowed_clients and not self.listen_tls_client_ca:
            raise ValueError("allowed_clients needs listen_tls_client_ca: without it clients show no certificates")
        return self

    def secrets(self) -> list[str]:
        """Returns the passwords, as they are written and as they are meant: what must not be shown."""
        found = [self.redis_password.get_secret_value()]
        for dsn in self.databases():
            _, _, written = dsn.partition("://")[2].rpartition("@")[0].partition(":")
            found += [written, unquote(written)]
        return list(dict.fromkeys(secret for secret in found if secret))

    def databases(self) -> dict[str, list[str]]:
        """Returns the distinct databases by their DSNs, each with its roles."""
        found: dict[str, list[str]] = {}
        for role in ROLES:
            found.setdefault(self.database(role), []).append(role)
        return found

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


def load(file: str | None = None, *, redis: bool = True) -> Settings:
    """Returns the settings of the environment and of a TOML file (also named by CACHE_SIDECAR_CONFIG).

    What does without Redis need not say where it is. Raises SettingsError with one line that says what is wrong and what
    would be right.
    """
    values = _file_values(file)
    return _validated(values if redis else _completed(values, "redis_nodes"))


class Setting(NamedTuple):
    """One line of `cache-sidecar config`."""

    name: str
    value: str
    origin: str
    meaning: str


def describe(file: str | None = None) -> list[Setting]:
    """Returns every setting with its value (secrets hidden), where it comes from, and what it means."""
    values = _file_values(file)
    settings = _validated(_completed(values, *_NEEDED))
    lines = []
    variables = {key: variable for variable, key in _variables().items()}
    for name, info in Settings.model_fields.items():
        origin = variables.get(name) or (str(_file_name(file)) if name in values else "default")
        is_missing = name in _NEEDED and origin == "default"
        value, origin = ("", "needed, not set") if is_missing else (_shown(getattr(settings, name)), origin)
        lines.append(Setting(name, value, origin, info.description or ""))
    return lines


# Settings without a default, each with a value that is well formed.
_NEEDED = {"redis_nodes": "unset:1", "postgres_catalog": "postgresql://unset"}


def _completed(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns the values, with something well formed for those of the names that are set nowhere."""
    return {name: _NEEDED[name] for name in names} | values


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
    for variable, key in _variables().items():
        if key not in Settings.model_fields:
            raise SettingsError(f"{variable}: {_unknown(key)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None


def _variables() -> dict[str, str]:
    """Returns the variables that are meant as settings, in capitals or not, each with the setting's name."""
    ours = {name: name.upper().removeprefix(PREFIX) for name in os.environ if name.upper().startswith(PREFIX)}
    # Kubernetes tells every pod of the namespace's Services, also of those called cache-sidecar or cache-sidecar-injector.
    services = [key.removesuffix("SERVICE_HOST") for key in ours.values() if re.fullmatch("(.*_)?SERVICE_HOST", key)]
    told = re.compile("|".join(f"{re.escape(service)}(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?" for service in services))
    return {
        name: key.lower()
        for name, key in ours.items()
        if key.lower() not in _FOREIGN and not (services and told.fullmatch(key))
    }


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


def group_id(group: str) -> int:
    """Returns the number of a group that is given by name or number; raises ValueError with a sentence."""
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r} here: give the name of one, or its number") from None
