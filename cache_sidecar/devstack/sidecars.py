"""The sidecars and relays of a development stack, each a process with its own settings."""

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

from cache_sidecar.config.settings import PREFIX, is_loopback, split_address
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.devstack.processes import Child, ChildFailed, Processes
from cache_sidecar.devstack.waiting import until

USAGE = 64
_READY_SECONDS = 60.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # the address to call if it listens on all addresses
# Settings that the stack sets in the sidecars' files. Variables in the user's shell must not redirect sidecars to another
# Redis, or make them reject the stack's own calls.
_OWN = ("ACCESS_", "ALLOWED_", "CONFIG", "ENGINE", "NAMESPACE", "LISTEN_", "LOCAL_", "REDIS_", "POSTGRES_", "WEB_")


class Sidecar(NamedTuple):
    """A running sidecar."""

    child: Child
    grpc: str
    "Its address, host:port."
    socket: Path
    "Its Unix socket."
    config: Path
    "Its settings file."
    web: str
    "Address of its status page and metrics, host:port; empty if it serves none."


def start_sidecar(
    processes: Processes, name: str, listen: str, common: Mapping[str, str | list[str] | bool | int], *, web: str = ""
) -> Sidecar:
    """Starts `cache-sidecar serve`, listening on host:port `listen` and on a Unix socket, with its status page at `web`."""
    socket = processes.state.socket(f"{name}.sock")
    host, port = split_address(listen)
    # Whoever passes another address than loopback to `dev` wants to try it from there, without certificates.
    own: dict[str, str | bool] = {
        "listen_address": listen,
        "listen_socket": str(socket),
        "listen_insecurely": not is_loopback(host),
        "web_address": web,
    }
    config = processes.state.write(f"{name}.toml", as_toml({**common, **own}))
    host = _ANYWHERE.get(host, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Sidecar(_start(processes, name, "serve", config), address, socket, config, web)


def start_relay(processes: Processes, name: str, common: Mapping[str, str | list[str] | bool | int]) -> Child:
    """Starts `cache-sidecar relay`."""
    return _start(processes, name, "relay", processes.state.write(f"{name}.toml", as_toml(common)))


def start_again(processes: Processes, child: Child) -> Child:
    """Starts a sidecar or relay with the settings that it had, unless it runs. Returns its process."""
    if child.running:
        return child
    verb = "relay" if child.role.startswith("relay") else "serve"
    return _start(processes, child.role, verb, processes.state.path / f"{child.role}.toml")


async def wait_until_serving(sidecar: Sidecar) -> None:
    """Waits until its health service returns SERVING.

    Raises SettingsError if it exited because of its settings, and ChildFailed if it exited otherwise or takes over a minute.
    """

    async def check() -> bool:
        fail_if_ended(sidecar.child)
        return await _is_listening(sidecar.grpc) and await _is_serving(sidecar.grpc)

    if not await until(check, seconds=_READY_SECONDS, interval=0.05):
        raise ChildFailed(sidecar.child)


def fail_if_ended(child: Child) -> None:
    """Raises SettingsError or ChildFailed if it has exited."""
    if child.code == USAGE:
        raise SettingsError(str(ChildFailed(child)))
    if not child.running:
        raise ChildFailed(child)


def as_toml(values: Mapping[str, str | list[str] | bool | int]) -> str:
    """Returns the text of a settings file. TOML's strings and lists have the syntax of JSON, except for DEL."""
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
    """Checked before the first call, because a gRPC channel waits a second after a refused connection."""
    try:
        _, writer = await asyncio.open_connection(*split_address(address))
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _is_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
