"""The gRPC server: listeners, health, reflection, and draining."""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from grpc_health.v1 import health, health_pb2_grpc

from cache_sidecar.config.settings import Settings, group_id, is_loopback, split_address
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server import reflection
from cache_sidecar.server.audit import Describe
from cache_sidecar.server.auth import Need
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.health import HealthService
from cache_sidecar.server.layers import FastPath
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.middleware import Middleware, Register
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
        self._sockets: list[str] = []
        self.address = ""
        "host:port of the TCP listener, once there is one."

    def add(
        self,
        name: str,
        register: Register,
        servicer: object,
        *,
        priority: Priority,
        priorities: Mapping[str, Priority] = MappingProxyType({}),
        fast_path: Mapping[str, FastPath] = MappingProxyType({}),
        need: Need = Need.DATA,
        needs: Mapping[str, Need] = MappingProxyType({}),
        describe: Describe | None = None,
    ) -> None:
        """Adds a service under its full name; `priorities` are of single methods, the rest as in `Middleware.register`."""
        self._engine.prioritize(name, priority)
        limiter = self._stack.admission.limiter(name, priority)
        limiters = {}
        for method, own in priorities.items():
            self._engine.prioritize(f"{name}/{method}", own)
            limiters[method] = self._stack.admission.limiter(f"{name}/{method}", own)
        self._stack.register(
            register,
            servicer,
            self._engine,
            limiter=limiter,
            limiters=limiters,
            fast_path=fast_path,
            need=need,
            needs=needs,
            describe=describe,
        )
        self._services.append(name)

    def bind(self) -> None:
        """Binds the addresses; clients that connect wait for `start`.

        Raises SettingsError when an address is in use, or open to others without TLS and tokens.
        """
        _check_exposure(self._settings)
        register_health = health_pb2_grpc.add_HealthServicer_to_server
        self._stack.register(register_health, self._health, self._engine, need=None)
        reflecting = reflection.servicer([*self._services, health.SERVICE_NAME])
        self._stack.register(reflection.register, reflecting, self._engine, need=Need.REFLECTION)
        if self._settings.listen_address:
            port = self._listen(self._settings.listen_address)
            self.address = f"{self._settings.listen_address.rpartition(':')[0]}:{port}"
        if path := self._settings.listen_socket:
            _check_socket("listen_socket", path)
            self._listen_on_socket(path, int(self._settings.listen_socket_mode, 8), self._settings.listen_socket_group)
        if path := self._settings.probe_socket:
            _check_socket("probe_socket", path)
            self._listen_on_socket(path, 0o600)

    async def start(self) -> None:
        """Starts serving; to be called after `bind`."""
        await self._engine.start()
        self._health.serve(self._services)

    def _listen_on_socket(self, path: str, mode: int, group: str = "") -> None:
        # No client can connect before the group and mode are set.
        before = os.umask(0o777)
        try:
            self._listen(f"unix:{path}")
        finally:
            os.umask(before)
        # From here on it is removed by `drain`.
        self._sockets.append(path)
        if group:
            try:
                os.chown(path, -1, group_id(group))
            except OSError as error:
                raise SettingsError(
                    f"listen_socket_group: cannot give {path} to {group}: {error.strerror}; only root or a member of it can"
                ) from None
        os.chmod(path, mode)

    def _listen(self, address: str) -> int:
        try:
            if self._tls is None or address.startswith("unix:"):
                return self._engine.add_insecure_port(address)
            return self._engine.add_secure_port(address, self._tls)
        except RuntimeError:
            raise SettingsError(f"cannot listen on {address}: it is in use, or not an address of this machine") from None

    async def drain(self) -> None:
        """Stops serving: health reports it, streams end, and calls in progress get `drain_seconds` to finish."""
        self._health.drain()
        self._stack.drain()
        await self._engine.stop(self._settings.drain_seconds)
        self._stack.close()
        for path in self._sockets:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _check_exposure(settings: Settings) -> None:
    """Warns of a TCP listener that others may reach without TLS or without showing who they are.

    Raises SettingsError if it has neither, unless the settings allow that.
    """
    address = settings.listen_address
    if not address or is_loopback(split_address(address)[0]):
        return
    has_tls, knows_callers = bool(settings.listen_tls_cert), bool(settings.access_tokens_file or settings.listen_tls_client_ca)
    missing = [] if has_tls else ["what it sends and receives can be read and changed on the way: set listen_tls_cert"]
    if not knows_callers:
        missing.append("whoever reaches it may call: set listen_tls_client_ca or access_tokens_file")
    if not has_tls and not knows_callers and not settings.listen_insecurely:
        raise SettingsError(
            f"listen_address: {address} is not a loopback address, and has neither TLS nor tokens: set listen_tls_cert and "
            "listen_tls_key, with access_tokens_file or listen_tls_client_ca; or listen_insecurely = true"
        )
    if missing:
        telemetry.log.warning("the listener is insecure", address=address, because="; ".join(missing))


def _check_socket(name: str, path: str) -> None:
    """Raises SettingsError if a Unix socket cannot be created there; gRPC itself would take over a socket in use."""
    if len(path.encode()) > 100:
        raise SettingsError(f"{name}: {path} is longer than 100 bytes, the maximum for a socket")
    if not Path(path).parent.is_dir():
        raise SettingsError(f"{name}: the folder {Path(path).parent} does not exist")
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(path)
        raise SettingsError(f"{name}: another process is listening on {path}")
