"""The gRPC server: listeners, health, reflection, and the way it stops."""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from grpc_health.v1 import health, health_pb2_grpc

from cache_sidecar.config.settings import Settings, group_id
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server import reflection
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.health import HealthService
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Hit, Middleware, Register
from cache_sidecar.server.tls import Tls


class Server:
    """Hosts services on an engine."""

    def __init__(self, engine: Engine, stack: Middleware, settings: Settings, *, tls: Tls | None = None) -> None:
        """`tls` is for the TCP listener."""
        self._engine = engine
        self._tls = tls
        self._stack = stack
        self._settings = settings
        self._health = HealthService()
        self._services: list[str] = []
        self._socket = ""
        self.address = ""
        "host:port of the TCP listener, once there is one."

    def add(
        self,
        name: str,
        register: Register,
        servicer: object,
        *,
        priority: Priority,
        hits: Mapping[str, Hit] = MappingProxyType({}),
    ) -> None:
        """Adds a service under its full name; `hits` as in `Middleware.register`."""
        self._engine.prioritize(name, priority)
        door = self._stack.admission.door(name, priority)
        self._stack.register(register, servicer, self._engine, door=door, hits=hits)
        self._services.append(name)

    def bind(self) -> None:
        """Takes the addresses; callers who connect wait for `start`. Raises SettingsError when an address is taken."""
        register_health = health_pb2_grpc.add_HealthServicer_to_server
        self._stack.register(register_health, self._health, self._engine, is_open=True)
        described = reflection.servicer([*self._services, health.SERVICE_NAME])
        self._stack.register(reflection.register, described, self._engine)
        if self._settings.listen_address:
            port = self._listen(self._settings.listen_address)
            self.address = f"{self._settings.listen_address.rpartition(':')[0]}:{port}"
        if path := self._settings.listen_socket:
            _check_socket(path)
            self._listen_on_socket(path)

    async def start(self) -> None:
        """Serves; to be called after `bind`."""
        await self._engine.start()
        self._health.serve(self._services)

    def _listen_on_socket(self, path: str) -> None:
        # Nobody can connect before its group and mode are right.
        before = os.umask(0o777)
        try:
            self._listen(f"unix:{path}")
        finally:
            os.umask(before)
        # From here on it is ours to remove.
        self._socket = path
        if group := self._settings.listen_socket_group:
            try:
                os.chown(path, -1, group_id(group))
            except OSError as error:
                raise SettingsError(
                    f"listen_socket_group: cannot give {path} to {group}: {error.strerror}; be a member of it, or root"
                ) from None
        os.chmod(path, int(self._settings.listen_socket_mode, 8))

    def _listen(self, address: str) -> int:
        try:
            if self._tls is None or address.startswith("unix:"):
                return self._engine.add_insecure_port(address)
            return self._engine.add_secure_port(address, self._tls)
        except RuntimeError:
            raise SettingsError(f"cannot listen on {address}: it is taken, or not an address of this machine") from None

    async def drain(self) -> None:
        """Stops: health says so, streams are told, calls in progress get their time to finish."""
        self._health.drain()
        self._stack.drain()
        await self._engine.stop(self._settings.drain_seconds)
        if self._socket:
            with contextlib.suppress(OSError):
                os.unlink(self._socket)


def _check_socket(path: str) -> None:
    """Raises SettingsError when a unix socket cannot be made there: gRPC itself would take it from whoever listens."""
    if len(path.encode()) > 100:
        raise SettingsError(f"listen_socket: {path} is longer than the 100 bytes a socket's path may have")
    if not Path(path).parent.is_dir():
        raise SettingsError(f"listen_socket: the folder {Path(path).parent} does not exist")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(path)
        raise SettingsError(f"listen_socket: another process listens on {path}")
