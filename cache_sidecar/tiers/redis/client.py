"""Connects to the Redis of the settings."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection as PlainConnection
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from cache_sidecar.config.settings import Settings, split_address
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.password_file import read_password
from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.redis.node import Address


class _PasswordFile(CredentialProvider):
    """Reads the password for every new connection."""

    def __init__(self, username: str, file: str) -> None:
        self._username = username
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = read_password(self._file)
        except SettingsError as error:
            raise AuthenticationError(f"the password is missing: {error}") from None
        return (self._username, password) if self._username else (password,)


class _NamedConnection(SSLConnection):
    """A connection over TLS to a server whose certificate has a given name, whatever its address: redis-py only knows that."""

    def __init__(self, *, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self._server_name}


class RedisClient:
    """Opens connections when first used, and detects whether it is a cluster."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, dependencies: Dependencies | None = None) -> None:
        """The health of each node is reported to `dependencies`, if any are given."""
        self.dependencies = dependencies or Dependencies(is_logged=False)
        self.nodes: tuple[Address, ...] = tuple(split_address(node) for node in settings.redis_nodes)
        self._timeout = settings.redis_timeout
        access: dict[str, Any] = {
            "username": settings.redis_username or None,
            "password": settings.redis_password.get_secret_value() or None,
        }
        if settings.redis_password_file:
            access = {"credential_provider": _PasswordFile(settings.redis_username, settings.redis_password_file)}
        self._access: dict[str, Any] = {
            **access,
            "driver_info": None,  # CLIENT SETINFO needs a right more, which an ACL file of Redis 7.0 cannot even name
        }
        self._connection_class: type[PlainConnection] = PlainConnection
        if settings.redis_tls:
            self._connection_class = SSLConnection
            self._access |= {
                "ssl_ca_certs": settings.redis_tls_ca or None,
                "ssl_certfile": settings.redis_tls_cert or None,
                "ssl_keyfile": settings.redis_tls_key or None,
            }
        if settings.redis_tls_server_name:
            self._connection_class = _NamedConnection
            self._access["server_name"] = settings.redis_tls_server_name
        is_cluster = {"cluster": True, "single": False, "auto": True if len(self.nodes) > 1 else None}
        self.cluster = RedisNodes(
            self.nodes,
            self._connect,
            is_cluster=is_cluster[settings.redis_mode],
            max_connections=settings.redis_max_connections,
            timeout=settings.redis_timeout,
            clock=clock or SystemClock(),
            dependencies=self.dependencies,
        )

    def _connect(self, address: Address) -> Any:
        return self._connection_class(
            host=address[0],
            port=address[1],
            **self._access,
            # No time limits of its own: each would cost a timer, or a task, per command.
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def to(self, address: Address, **more: Any) -> Redis:
        """Returns a new client of one node, for the caller to close; `more` overrides its options."""
        options: dict[str, Any] = {
            **self._access,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), 1),
        }
        pool = ConnectionPool(connection_class=self._connection_class, host=address[0], port=address[1], **options | more)
        return Redis.from_pool(pool)

    async def close(self) -> None:
        """Closes all connections."""
        await self.cluster.close()
