"""The settings; nothing else reads the environment. `cache-sidecar config` prints them all."""

import difflib
import grp
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import quote, unquote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cache_sidecar.config import experiment, roles
from cache_sidecar.core import container_memory, masks
from cache_sidecar.core.container_memory import MIB
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.password_file import URI_OPTION, read_password
from cache_sidecar.core.watched_files import read_file

PREFIX = "CACHE_SIDECAR_"
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
ROLES = ("catalog", "user", "analytics")
# The roles whose databases others use by default.
_DEFAULTS = {"user": "catalog", "analytics": "user"}
# Variables with the prefix that are not settings: the file's name, and what the injector sets for applications.
_FOREIGN = {"config", "address", "socket", "quit_url"}
# Options of the URIs of PostgreSQL and MongoDB that are, or contain, passwords.
_SECRET_OPTIONS = {
    "password",
    "sslpassword",
    "oauth_client_secret",
    "tlsCertificateKeyFilePassword",
    "authMechanismProperties",
}
_URI = re.compile(
    r"postgres(ql)?://([^/?#]*@)?(\[[^]/]+\]|[^][:/?#@,]*)(:\d{1,5})?(,(\[[^]/]+\]|[^][:/?#@,]*)(:\d{1,5})?)*([/?].*)?"
)

_MONGODB_URI = re.compile(_URI.pattern.replace("postgres(ql)?", r"mongodb(\+srv)?", 1))


class Settings(BaseSettings):
    """Each is set by a variable CACHE_SIDECAR_NAME or a line `name = value` in a TOML file; the variable wins."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    namespace: str = Field("cs", pattern=r"^[a-z0-9_]{1,16}$")
    "Prefix of all keys and channels in Redis, so that several applications can share it."

    listen_address: str = "127.0.0.1:50051"
    "Address of the gRPC server: host:port, port 0 for any free port; empty for the Unix socket only."
    listen_insecurely: bool = False
    "Whether listen_address may be another than loopback without TLS and tokens, so that whoever reaches it may call."
    listen_socket: str = ""
    "Path of a Unix socket that serves the same API; empty for none."
    listen_socket_mode: str = Field("0660", pattern=r"^0?[0-7]{3}$")
    "File mode of the Unix socket, in octal."

    listen_socket_group: str = Field("", coerce_numbers_to_str=True)
    "Group of the Unix socket, by name or number; empty for the group of the process."

    probe_socket: str = ""
    "Path of a Unix socket for probes, which only the process's user can use; empty for none. It answers when others are busy."

    listen_tls_cert: str = ""
    "PEM file with the server certificate for listen_address and its intermediates; empty for no TLS."
    listen_tls_key: str = ""
    "PEM file with the private key of listen_tls_cert: RSA, or ECDSA on P-256 or P-384."
    listen_tls_client_ca: str = ""
    "PEM file with the CAs that client certificates must be signed by (mTLS); empty if none is required."
    listen_tls_client_crl: str = ""
    "PEM file with revocation lists (CRLs) of these CAs; empty for none."
    allowed_clients: Annotated[tuple[str, ...], NoDecode] = ()
    "Names in client certificates that may call, comma-separated, each with its roles or without: `NAME ROLE+ROLE` or `NAME`."
    allowed_clients_file: str = ""
    "File with such entries, one per line, instead of allowed_clients; empty for none."
    access_tokens_file: str = ""
    "File with the accepted tokens, `TOKEN` or `NAME ROLE,ROLE TOKEN` per line (`authorization: Bearer TOKEN`); empty for none."
    local_admin: bool = False
    "Whether callers without roles may change caches and policy over loopback and the Unix socket; else this needs role admin."

    web_address: str = ""
    "host:port of the metrics (GET /metrics) and of a sidecar's status page (/), such as 127.0.0.1:9464; empty for none."
    quit_address: str = ""
    "Loopback host:port where POST /quit stops the sidecar, for Jobs on Kubernetes before 1.29; empty for none."
    quit_token_file: str = ""
    "File with the token for POST /quit (`authorization: Bearer TOKEN`); if it is missing, a random token is written into it."
    engine: Literal["auto", "native", "aio"] = "auto"
    "The gRPC server: native (Rust), aio (grpc.aio), or auto for native where it is installed."

    redis_nodes: Annotated[tuple[str, ...], NoDecode] = Field(min_length=1)
    "The shared Redis or Valkey: host:port of one or more nodes, comma-separated."
    redis_mode: Literal["auto", "cluster", "single"] = "auto"
    "Whether it is a cluster; auto detects it, and assumes a cluster if Redis does not answer and several nodes are given."
    redis_username: str = ""
    "Redis ACL user; empty for the default user."
    redis_password: SecretStr = SecretStr("")
    "Password of the Redis user."
    redis_password_file: str = ""
    "File with the password of the Redis user, instead of redis_password; read for every new connection."
    redis_tls: bool = False
    "Whether to connect to Redis with TLS."
    redis_tls_ca: str = ""
    "PEM file with the CAs to trust for Redis; empty for the system's."
    redis_tls_cert: str = ""
    "PEM file with the client certificate for Redis, for mutual TLS."
    redis_tls_key: str = ""
    "PEM file with the private key of redis_tls_cert."
    redis_tls_server_name: str = Field("", pattern=r"^([A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?)?$")
    "Name that the certificate of every Redis node must have; empty for the host at which it is reached."
    redis_mac_keys_file: str = ""
    "File with keys, one per line, by which records in Redis are signed and recognised; the first one signs. Empty for none."
    redis_mac_required: bool = True
    "With redis_mac_keys_file, whether records without a MAC are ignored; false while sidecars are being given their keys."
    redis_timeout: float = Field(0.25, gt=0, le=10)
    "Timeout of one Redis command, in seconds."
    redis_max_connections: int = Field(32, ge=1, le=1000)
    "Maximum number of connections to each Redis node."

    postgres_catalog: SecretStr = Field(min_length=1)
    "PostgreSQL with products, inventory and reservations: postgresql://user:password@host:port/database."
    postgres_user: SecretStr = SecretStr("")
    "PostgreSQL with sessions and carts; empty for the same as postgres_catalog."
    postgres_analytics: SecretStr = SecretStr("")
    "PostgreSQL with user events; empty for the same as postgres_user."
    postgres_catalog_password_file: str = ""
    "File with the password for postgres_catalog, instead of one in the URI; read for every new connection."
    postgres_user_password_file: str = ""
    "The same for postgres_user."
    postgres_analytics_password_file: str = ""
    "The same for postgres_analytics."
    postgres_tls_ca: str = ""
    "PEM file with the CAs to trust for PostgreSQL, with sslmode=verify-full; empty for what the URIs set."
    postgres_sidecar_role: str = Field("", max_length=63)
    "Role of PostgreSQL to which `migrate` grants what sidecars need, and nothing else; empty for none."
    postgres_relay_role: str = Field("", max_length=63)
    "The same for relays."
    postgres_pool_size: int = Field(8, ge=1, le=200)
    "Maximum number of connections to each PostgreSQL."
    postgres_timeout: float = Field(2.0, gt=0, le=60)
    "Timeout of one transaction or query in PostgreSQL, in seconds."
    postgres_prepare: bool = True
    "Whether to use prepared statements; turn it off behind PgBouncer before 1.21 in transaction mode (detected otherwise)."

    mongodb_uri: SecretStr = SecretStr("")
    "MongoDB to which relays copy user events: mongodb://user:password@host:port/database; empty for none."

    l1_max_bytes: int = Field(default_factory=lambda: container_memory.l1_default().bytes, ge=MIB, le=1024**4)
    "Memory for cached entries (L1), overhead included, in bytes; by default, what fits the container's memory limit."
    l1_max_entries: int = Field(1_000_000, ge=1, le=10**9)
    "Maximum number of cached entries (L1)."

    max_concurrent_calls: int = Field(2000, ge=1, le=1_000_000)
    "Maximum number of unary calls in progress; above it calls get RESOURCE_EXHAUSTED, product calls before others."
    max_dataset_calls: int = Field(1500, ge=1, le=1_000_000)
    "The same for each dataset, such as carts, so that no dataset takes all the room."
    max_streams: int = Field(200, ge=1)
    "Maximum number of streams in progress for each role (watches: app); open health watches have the same limit of their own."
    max_connection_streams: int = Field(100, ge=1)
    "The same for each client connection, so that no connection takes all the streams."
    max_connections: int = Field(1000, ge=1, le=100_000)
    "Maximum number of client connections; above it the native engine closes one that is idle for 30 s, grpc.aio the new one."
    max_message_bytes: int = Field(4 * MIB, ge=8192, le=64 * MIB)
    "Maximum size of a request or reply, in bytes; gRPC clients accept replies of 4 MiB by default."
    drain_seconds: float = Field(10.0, ge=0, le=600)
    "Time for calls in progress to finish when the sidecar stops, in seconds."
    max_connection_age: float = Field(0.0, ge=0, le=30 * 86400)
    "Maximum age of a client connection, in seconds plus or minus 10 %, after which it must reconnect; 0 for no limit."
    max_connection_age_grace: float = Field(30.0, ge=0, le=86400)
    "Time for the calls on a connection of maximum age, watches included, to finish, in seconds."
    max_connection_idle: float = Field(3600.0, ge=0, le=30 * 86400)
    "Idle time after which a client connection is closed, in seconds; 0 for never."
    keepalive_time: float = Field(30.0, ge=0.1, le=86400)
    "Interval of keepalive pings to clients, in seconds."
    keepalive_timeout: float = Field(10.0, ge=0.1, le=3600)
    "Time for a client to answer a ping, in seconds; then its connection is closed and its calls end."

    cart_max_items: int = Field(200, ge=1, le=500)
    "Maximum number of lines in a cart."
    cart_max_quantity: int = Field(999, ge=1, le=1_000_000)
    "Maximum quantity of a cart line."

    search_language: str = Field("english", pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$", max_length=127)
    "Text search configuration of PostgreSQL in which products are found, such as german; `migrate` has relays index them."

    event_retention: int = Field(90, ge=1, le=3650)
    "Days for which PostgreSQL keeps user events; the relay drops the partitions of earlier days."
    event_max_age: int = Field(7, ge=1, le=365)
    "Days after which an event is too old to be written, at most event_retention."
    event_backlog: int = Field(400_000, ge=1000, le=100_000_000)
    "Events that may wait in Redis for the relay, each about 0.3 KB; above it, writers get RESOURCE_EXHAUSTED."
    event_replicas: int = Field(1, ge=0, le=5)
    "Replicas in Redis that must have an event before it is acknowledged; where fewer answer, PostgreSQL gets it first."

    recommendation_generators: str = "shop,popular"
    "What makes recommendations, in the order in which it is asked: shop, popular, provided, remote."
    recommendation_remote_address: str = ""
    "host:port of the shop's own model, for the generator `remote`: see recommendation_generator.proto; empty for none."
    recommendation_remote_timeout: float = Field(0.2, gt=0, le=10)
    "Timeout of one of its lists, in seconds; then the next generator is asked."
    recommendation_remote_tls: bool = False
    "Whether to connect to it with TLS."
    recommendation_remote_tls_ca: str = ""
    "PEM file with the CAs to trust for it; empty for the system's."
    recommendation_remote_tls_cert: str = ""
    "PEM file with the client certificate for it, for mutual TLS."
    recommendation_remote_tls_key: str = ""
    "PEM file with the private key of recommendation_remote_tls_cert."

    trace_endpoint: str = ""
    "host:port of an OpenTelemetry collector that takes traces by OTLP over gRPC; empty for none."
    trace_ratio: float = Field(0.0, ge=0, le=1)
    "Fraction of the calls that is traced where callers don't decide it (`traceparent`)."
    trace_tls: bool = False
    "Whether to connect to the collector with TLS."
    trace_tls_ca: str = ""
    "PEM file with the CAs to trust for the collector; empty for the system's."
    trace_tls_cert: str = ""
    "PEM file with the client certificate for the collector, for mutual TLS."
    trace_tls_key: str = ""
    "PEM file with the private key of trace_tls_cert."

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
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if value and not parts:
            # Not the same as empty: `allowed_clients = "$A,$B"` without A and B must not admit everybody.
            raise ValueError("has no entry, only commas or spaces")
        return parts

    @field_validator("redis_nodes")
    @classmethod
    def _are_addresses(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        # Looked for in all of them first, and not quoted: a URI has the password in it, which a comma may have split in two.
        if any("://" in node or "@" in node for node in nodes):
            raise ValueError(
                "must be host:port, not a URI: user, password and TLS go into redis_username, redis_password_file and redis_tls"
            )
        for number, node in enumerate(nodes, 1):
            try:
                split_address(node)
            except ValueError:
                # Not quoted either: `redis:6379,password=...` is how other clients are configured.
                raise ValueError(f"number {number} must be host:port, such as 127.0.0.1:6379") from None
        return nodes

    @field_validator("allowed_clients")
    @classmethod
    def _are_clients(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        roles.parse_clients(entries)
        return entries

    @field_validator("recommendation_generators")
    @classmethod
    def _are_generators(cls, value: str) -> str:
        if not experiment.order_of(value):
            raise ValueError("must name at least one generator, such as shop,popular")
        return value

    @field_validator("listen_socket_group")
    @classmethod
    def _is_group(cls, value: str) -> str:
        if value:
            group_id(value)
        return value

    @field_validator("listen_address", "web_address", "recommendation_remote_address", "trace_endpoint")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @field_validator("quit_address")
    @classmethod
    def _is_loopback(cls, value: str) -> str:
        if value and split_address(value)[0] not in _LOOPBACK:
            raise ValueError("must be on the loopback interface, such as 127.0.0.1:50052, because it stops the sidecar")
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

    @field_validator("mongodb_uri")
    @classmethod
    def _is_mongodb(cls, value: SecretStr) -> SecretStr:
        uri = value.get_secret_value()
        if uri and not _MONGODB_URI.fullmatch(uri):
            raise ValueError(
                "must be a URI such as mongodb://user:password@host:27017/database, with special characters percent-encoded"
            )
        return value

    @field_validator(
        "redis_tls_ca",
        "redis_tls_cert",
        "recommendation_remote_tls_ca",
        "recommendation_remote_tls_cert",
        "trace_tls_ca",
        "trace_tls_cert",
        "postgres_tls_ca",
        "listen_tls_cert",
        "listen_tls_client_ca",
        "listen_tls_client_crl",
        "allowed_clients_file",
    )
    @classmethod
    def _is_readable(cls, value: str) -> str:
        return _check_file(value)

    @field_validator(
        "redis_tls_key",
        "redis_mac_keys_file",
        "listen_tls_key",
        "access_tokens_file",
        "recommendation_remote_tls_key",
        "trace_tls_key",
    )
    @classmethod
    def _is_secret(cls, value: str) -> str:
        return _check_file(value, is_secret=True)

    @field_validator("redis_password_file", *(f"postgres_{role}_password_file" for role in ROLES))
    @classmethod
    def _holds_a_password(cls, value: str) -> str:
        if value:
            try:
                read_password(value)
            except SettingsError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _has_one_password_each(self) -> Self:
        if self.redis_password_file and self.redis_password.get_secret_value():
            raise ValueError("redis_password and redis_password_file are both set: keep one of them")
        for role in _DEFAULTS:
            if getattr(self, f"postgres_{role}_password_file") and not self._own_uri(role):
                raise ValueError(f"postgres_{role}_password_file requires postgres_{role}")
        for role in ROLES:
            if self._password_file(role) and (
                _password(self._uri(role)) or {"password", "passfile"} & _options(self._uri(role)).keys()
            ):
                raise ValueError(f"postgres_{role} and postgres_{role}_password_file both set a password: keep one of them")
        return self

    @model_validator(mode="after")
    def _has_complete_listeners(self) -> Self:
        if not self.listen_address and not self.listen_socket:
            raise ValueError("listen_address and listen_socket are both empty: set at least one of them")
        if bool(self.listen_tls_cert) != bool(self.listen_tls_key):
            raise ValueError("listen_tls_cert and listen_tls_key must be set together")
        if self.listen_tls_client_ca and not self.listen_tls_cert:
            raise ValueError("listen_tls_client_ca requires listen_tls_cert and listen_tls_key")
        for name in ("allowed_clients", "allowed_clients_file", "listen_tls_client_crl"):
            if getattr(self, name) and not self.listen_tls_client_ca:
                raise ValueError(f"{name} requires listen_tls_client_ca: without it clients present no certificate")
        if self.allowed_clients and self.allowed_clients_file:
            raise ValueError("allowed_clients and allowed_clients_file are both set: keep one of them")
        if self.quit_address and not self.quit_token_file:
            raise ValueError(
                "quit_address requires quit_token_file, with the token for POST /quit; a missing file is written at the start"
            )
        return self

    @model_validator(mode="after")
    def _has_complete_stores(self) -> Self:
        if self.event_max_age > self.event_retention:
            raise ValueError("event_max_age must be at most event_retention: older events would be dropped at once")
        if bool(self.redis_tls_cert) != bool(self.redis_tls_key):
            raise ValueError("redis_tls_cert and redis_tls_key must be set together")
        if "remote" in experiment.order_of(self.recommendation_generators) and not self.recommendation_remote_address:
            raise ValueError("recommendation_generators names remote, which requires recommendation_remote_address")
        if bool(self.recommendation_remote_tls_cert) != bool(self.recommendation_remote_tls_key):
            raise ValueError("recommendation_remote_tls_cert and recommendation_remote_tls_key must be set together")
        if bool(self.trace_tls_cert) != bool(self.trace_tls_key):
            raise ValueError("trace_tls_cert and trace_tls_key must be set together")
        if self.trace_ratio and not self.trace_endpoint:
            raise ValueError("trace_ratio requires trace_endpoint, where traces are sent to")
        if self.redis_tls_server_name and not self.redis_tls:
            raise ValueError("redis_tls_server_name requires redis_tls: without it servers present no certificate")
        for role in ROLES if self.postgres_tls_ca else ():
            if (mode := _options(self._uri(role)).get("sslmode", "verify-full")) not in {"verify-full", "verify-ca"}:
                raise ValueError(f"postgres_tls_ca requires sslmode=verify-full in postgres_{role}, not {mode[:20]!r}")
        return self

    @model_validator(mode="after")
    def _are_masked(self) -> Self:
        """Has the passwords masked in all output, percent-encoded and decoded; those in files are, as they are read."""
        masks.add(self.redis_password.get_secret_value())
        for uri in (*self.databases(), self.mongodb_uri.get_secret_value()):
            written = [_password(uri), *(value for name, value in _options(uri).items() if name in _SECRET_OPTIONS)]
            masks.add(*written, *map(unquote, written))
        return self

    @property
    def is_l1_set(self) -> bool:
        """Whether l1_max_bytes was set, and thus does not follow the container's memory limit."""
        return "l1_max_bytes" in self.model_fields_set

    @property
    def l1_reason(self) -> str:
        """Why l1_max_bytes is what it is, for people."""
        return "set" if self.is_l1_set else container_memory.l1_default().reason

    def databases(self) -> dict[str, list[str]]:
        """Returns the distinct databases by their DSNs, each with its roles."""
        found: dict[str, list[str]] = {}
        for role in ROLES:
            found.setdefault(self.database(role), []).append(role)
        return found

    def database(self, role: str) -> str:
        """Returns the DSN of a role, with the options that other settings add."""
        uri = self._uri(role)
        wanted = {"sslmode": "verify-full", "sslrootcert": self.postgres_tls_ca} if self.postgres_tls_ca else {}
        if file := self._password_file(role):
            wanted[URI_OPTION] = file
        added = [f"{name}={quote(value, safe='')}" for name, value in wanted.items() if name not in _options(uri)]
        return uri + ("&" if "?" in uri else "?") + "&".join(added) if added else uri

    def _password_file(self, role: str) -> str:
        """Returns the file with the password of the URI that a role uses, an empty string if there is none."""
        file: str = getattr(self, f"postgres_{self._role_with_uri(role)}_password_file")
        return file

    def _uri(self, role: str) -> str:
        return self._own_uri(self._role_with_uri(role))

    def _own_uri(self, role: str) -> str:
        own: SecretStr = getattr(self, f"postgres_{role}")
        return own.get_secret_value()

    def _role_with_uri(self, role: str) -> str:
        """Returns the role whose URI a role uses: its own if it is set."""
        while role in _DEFAULTS and not self._own_uri(role):
            role = _DEFAULTS[role]
        return role

    @classmethod
    def settings_customise_sources(  # the arguments are passed by name
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file, whose values are passed to the constructor."""
        return env_settings, init_settings


def load(file: str | None = None, *, redis: bool = True, postgres: bool = True) -> Settings:
    """Returns the settings from the environment and a TOML file, by default the one named by CACHE_SIDECAR_CONFIG.

    `redis` and `postgres` are false for commands that don't use them, so that redis_nodes and postgres_catalog need not be
    set. Raises SettingsError.
    """
    unused = [name for name, is_used in (("redis_nodes", redis), ("postgres_catalog", postgres)) if not is_used]
    return _validate(_with_placeholders(_file_values(file), *unused))


class Setting(NamedTuple):
    """One line of `cache-sidecar config`."""

    name: str
    value: str
    origin: str
    meaning: str


def describe(file: str | None = None) -> list[Setting]:
    """Returns every setting with its value (secrets masked), origin and meaning."""
    values = _file_values(file)
    settings = _validate(_with_placeholders(values, *_REQUIRED))
    lines = []
    variables = {key: variable for variable, key in _variables().items()}
    for name, info in Settings.model_fields.items():
        origin = variables.get(name) or (str(_file_name(file)) if name in values else "default")
        if name == "l1_max_bytes" and origin == "default":
            origin = settings.l1_reason
        is_missing = name in _REQUIRED and origin == "default"
        value, origin = ("", "required, not set") if is_missing else (_printable(getattr(settings, name)), origin)
        lines.append(Setting(name, value, origin, info.description or ""))
    return lines


# Settings without a default, each with a valid placeholder.
_REQUIRED = {"redis_nodes": "unset:1", "postgres_catalog": "postgresql://unset"}


def _with_placeholders(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns the values, with placeholders for those of the names that are not set."""
    return {name: _REQUIRED[name] for name in names} | values


def _printable(value: Any) -> str:
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
            raise SettingsError(f"{name}: {_no_such_setting(key)}")
    return values


def _no_such_setting(key: str) -> str:
    close = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"there is no setting {key!r}" + (f", did you mean {close[0]!r}?" if close else "; see `cache-sidecar config`")


def _validate(values: dict[str, Any]) -> Settings:
    for variable, key in _variables().items():
        if key not in Settings.model_fields:
            raise SettingsError(f"{variable}: {_no_such_setting(key)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None


def _variables() -> dict[str, str]:
    """Returns the environment variables of settings, in any case, each with the setting's name."""
    ours = {name: name.upper().removeprefix(PREFIX) for name in os.environ if name.upper().startswith(PREFIX)}
    # Kubernetes sets variables for the namespace's Services in every pod, also for those named cache-sidecar...; skip them.
    services = [key.removesuffix("SERVICE_HOST") for key in ours.values() if re.fullmatch("(.*_)?SERVICE_HOST", key)]
    of_service = re.compile("|".join(f"{re.escape(service)}(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?" for service in services))
    return {
        name: key.lower()
        for name, key in ours.items()
        if key.lower() not in _FOREIGN and not (services and of_service.fullmatch(key))
    }


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        meaning = Settings.model_fields[name].description
        return f"{name} is not set: set {PREFIX}{name.upper()} or add it to the settings file. {meaning}"
    problem = first["msg"].removeprefix("Value error, ")
    return f"{name}: {problem}" if name else problem


def _password(uri: str) -> str:
    """Returns the password in a PostgreSQL URI, percent-encoded as it is there."""
    return uri.partition("://")[2].partition("?")[0].rpartition("@")[0].partition(":")[2]


def _options(uri: str) -> dict[str, str]:
    """Returns the options of a PostgreSQL URI."""
    pairs = (part.partition("=") for part in uri.partition("?")[2].split("&"))
    return {unquote(name): unquote(value) for name, _, value in pairs if name}


def _check_file(file: str, *, is_secret: bool = False) -> str:
    """Returns the path of a file, which may be empty. Raises ValueError if the file cannot be read."""
    if file:
        try:
            read_file(file, 0, is_secret=is_secret)
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror}") from None
    return file


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port` or `[v6]:port`. Raises ValueError with a sentence."""
    host, colon, port = address.rpartition(":")
    if {"/", "@"} & set(host):
        # Not quoted: what comes before the @ of a URI is a password.
        raise ValueError("must be host:port, such as 127.0.0.1:6379, not a URI")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} must be host:port, such as 127.0.0.1:6379")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a host; not for names other than localhost, which would have to be resolved."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def group_id(group: str) -> int:
    """Returns the id of a group given by name or number. Raises ValueError with a sentence."""
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(
            f"there is no group {group!r} on this machine: use the name of an existing group, or a number"
        ) from None
