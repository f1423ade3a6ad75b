"""Which engine runs, and why."""

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server.engine import Engine

_INSTALL = "install Rust (https://rustup.rs), then this package again, or set engine to auto"
_LET_WRITE = "let it write in /tmp, or set engine to auto"
# Where containers can write that have no /tmp: the memory that processes share.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder made there is ours alone
# What a socket's path may have, and what we put behind the folder's.
_LONGEST, _OURS = 100, len("/cache-sidecar-12345678/aio.sock")


class Choice(NamedTuple):
    """An engine, and why it was chosen."""

    name: Literal["native", "aio"]
    reason: str

    @property
    def is_native(self) -> bool:
        """Whether it is the one in Rust."""
        return self.name == "native"


def choose(wanted: str, *, listen_socket: str = "") -> Choice:
    """Returns the engine to run for the settings `engine` and `listen_socket`.

    Raises SettingsError when the one that was asked for cannot be had.
    """
    if wanted == "aio":
        return Choice("aio", "it was asked for")
    problem = _problem(listen_socket)
    if problem is None:
        return Choice("native", "it was asked for" if wanted == "native" else "it is installed")
    if wanted == "native":
        raise SettingsError(f"engine: {problem.what}: {problem.remedy}")
    return Choice("aio", problem.what)


def create(choice: Choice, settings: Settings, clock: Clock) -> Engine:
    """Returns the engine that was chosen, with no services and no ports yet."""
    if choice.is_native:
        from cache_sidecar.server.engines import native  # noqa: PLC0415  # where it is installed

        return native.create(settings, clock)
    from cache_sidecar.server.engines import aio  # noqa: PLC0415  # `cache-sidecar config` asks for a choice without gRPC

    return aio.create(settings)


def explain(wanted: str, *, listen_socket: str = "") -> str:
    """Returns which engine would run, and why; or what keeps the one that was asked for from running."""
    try:
        name, reason = choose(wanted, listen_socket=listen_socket)
    except SettingsError as error:
        return str(error).removeprefix("engine: ")
    return f"{name}, as {reason}"


class _Problem(NamedTuple):
    what: str
    remedy: str


def _problem(listen_socket: str) -> _Problem | None:
    """Returns what keeps the native engine from running."""
    try:
        import_module("cache_sidecar._native")
    except ModuleNotFoundError:
        return _Problem("the native engine is not installed", _INSTALL)
    except ImportError as error:
        return _Problem(f"the native engine cannot be loaded ({error})", _INSTALL)
    if place_for_socket(listen_socket) is None:
        return _Problem("the native engine finds no folder for a socket of its own", _LET_WRITE)
    return None


def place_for_socket(listen_socket: str) -> str | None:
    """Returns a folder in which the native engine can make one for its private socket; None when there is none."""
    places = [_temporary(), _SHARED_MEMORY, str(Path(listen_socket).parent) if listen_socket else ""]
    return next((place for place in places if place and _can_hold_socket(place)), None)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""


def _can_hold_socket(place: str) -> bool:
    return os.access(place, os.W_OK | os.X_OK) and len(place.encode()) + _OURS <= _LONGEST
