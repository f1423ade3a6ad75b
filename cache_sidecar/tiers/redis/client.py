"""How to reach the Redis of the settings."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection as PlainConnection
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cache_sidecar.config.settings import Settings, split_address
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.redis.node import Address


class RedisClient:
    """Connects when first used, and finds out whether it is a cluster."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, dependencies: Dependencies | None = None) -> None:
        """`dependencies` hear how each node is doing; nobody does if none are given."""
        self.dependencies = dependencies or Dependencies(is_logged=False)
        self.nodes: tuple[Address, ...] = tuple(split_address(node) for node in settings.redis_nodes)
        self._timeout = settings.redis_timeout
        self._access: dict[str, Any] = {
            "username": settings.redis_username or None,
            "password": settings.redis_password.get_secret_value() or None,
        }
        self._tls: dict[str, Any] = {}
        if settings.redis_tls:
            self._tls = {
                "ssl_ca_certs": settings.redis_tls_ca or None,
                "ssl_certfile": settings.redis_tls_cert or None,
                "ssl_keyfile": settings.redis_tls_key or None,
            }
        is_cluster = {"cluster": True, "single": False, "auto": True if len(self.nodes) > 1 else None}
        self.shards = RedisNodes(
            self.nodes,
            self._connect,
            is_cluster=is_cluster[settings.redis_mode],
            max_connections=settings.redis_max_connections,
            timeout=settings.redis_timeout,
            clock=clock or SystemClock(),
            dependencies=self.dependencies,
        )
        self._connection_class = SSLConnection if settings.redis_tls else PlainConnection

    def _connect(self, address: Address) -> Any:
        return self._connection_class(
            host=address[0],
            port=address[1],
            **self._access,
            **self._tls,
            # No time limits of its own: each would be a timer, or a task, more per command.
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def to(self, address: Address, **more: Any) -> Redis:
        """Returns a client of one node, of its caller's own."""
        options: dict[str, Any] = {
            **self._access,
            **self._tls,
            "ssl": bool(self._tls),
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "retry": Retry(NoBackoff(), 1),
        }
        return Redis(host=address[0], port=address[1], **options | more)

    async def close(self) -> None:
        """Closes all connections."""
        await self.shards.close()
