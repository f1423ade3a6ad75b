"""The sidecars and the relay of a development stack, each a process with settings of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.config.settings import PREFIX, split_address
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.devstack.processes import Child, ChildFailed, Processes
from cache_sidecar.devstack.waiting import until

USAGE = 64
_READY_SECONDS = 60.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what to call when it listens everywhere
# What a stack says to its sidecars in their files; a variable in somebody's shell must not send them to another Redis, or have
# them refuse the calls that the stack makes and shows.
_OWN = ("ACCESS_", "ALLOWED_", "CONFIG", "ENGINE", "NAMESPACE", "LISTEN_", "REDIS_", "POSTGRES_")


class Sidecar(NamedTuple):
    """A sidecar that was started."""

    child: Child
    grpc: str
    "The host:port to call."
    socket: Path
    "The unix socket that serves the same."
    config: Path
    "Its settings file."


def start_sidecar(processes: Processes, name: str, listen: str, common: Mapping[str, str | list[str]]) -> Sidecar:
    """Starts `cache-sidecar serve`, listening at host:port `listen` and on a unix socket."""
    socket = processes.state.socket(f"{name}.sock")
    own = {"listen_address": listen, "listen_socket": str(socket)}
    config = processes.state.write(f"{name}.toml", as_toml({**common, **own}))
    host, port = split_address(listen)
    host = _ANYWHERE.get(host, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Sidecar(_start(processes, name, "serve", config), address, socket, config)


def start_relay(processes: Processes, name: str, common: Mapping[str, str | list[str]]) -> Child:
    """Starts `cache-sidecar relay`."""
    return _start(processes, name, "relay", processes.state.write(f"{name}.toml", as_toml(common)))


async def serving(sidecar: Sidecar) -> None:
    """Returns when its health service says SERVING.

    Raises SettingsError when it ended because of its settings, ChildFailed when it ended otherwise or takes a minute.
    """

    async def check() -> bool:
        fail_if_ended(sidecar.child)
        return await _is_listening(sidecar.grpc) and await _says_serving(sidecar.grpc)

    if not await until(check, seconds=_READY_SECONDS, interval=0.05):
        raise ChildFailed(sidecar.child)


def fail_if_ended(child: Child) -> None:
    """Raises SettingsError or ChildFailed when it runs no more."""
    if child.code == USAGE:
        raise SettingsError(str(ChildFailed(child)))
    if not child.running:
        raise ChildFailed(child)


def as_toml(values: Mapping[str, str | list[str]]) -> str:
    """Returns a settings file. TOML's strings and lists are written as JSON writes them, except for DEL."""
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")


def _start(processes: Processes, role: str, verb: str, config: Path) -> Child:
    command = [sys.executable, "-m", "cache_sidecar", verb, "--config", str(config)]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith(PREFIX) and name.removeprefix(PREFIX).startswith(_OWN))
    }
    return processes.start(role, command, directory=Path.cwd(), environment=environment, stop_signal=signal.SIGTERM)


async def _is_listening(address: str) -> bool:
    """Asked before the first call: a gRPC channel that was refused waits a second before it tries again."""
    try:
        _, writer = await asyncio.open_connection(*split_address(address))
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _says_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
