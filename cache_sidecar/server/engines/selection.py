"""Selects the engine."""

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server.engine import Engine

_INSTALL = "install Rust (https://rustup.rs) and reinstall this package, or set engine to auto"
_LET_WRITE = "make /tmp writable, or set engine to auto"
# Shared memory, which is writable in containers without /tmp.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # a private folder is created there
# The maximum length of a socket's path, and the length of what is appended to the folder's path.
_LONGEST, _OURS = 100, len("/cache-sidecar-12345678/aio.sock")


class Selection(NamedTuple):
    """An engine, and why it was selected."""

    name: Literal["native", "aio"]
    reason: str

    @property
    def is_native(self) -> bool:
        """Whether it is the native engine."""
        return self.name == "native"


def select(wanted: str, *, listen_socket: str = "") -> Selection:
    """Returns the engine to run for the settings `engine` and `listen_socket`.

    Raises SettingsError if the requested engine is not available.
    """
    if wanted == "aio":
        return Selection("aio", "requested")
    problem = _problem(listen_socket)
    if problem is None:
        return Selection("native", "requested" if wanted == "native" else "installed")
    if wanted == "native":
        raise SettingsError(f"engine: {problem.what}: {problem.remedy}")
    return Selection("aio", problem.what)


def create(selected: Selection, settings: Settings, clock: Clock) -> Engine:
    """Returns the selected engine, without services and ports."""
    if selected.is_native:
        from cache_sidecar.server.engines import native  # noqa: PLC0415  # only where it is installed

        return native.create(settings, clock)
    from cache_sidecar.server.engines import aio  # noqa: PLC0415  # `cache-sidecar config` selects without loading gRPC

    return aio.create(settings)


def explain(wanted: str, *, listen_socket: str = "") -> str:
    """Returns which engine would run and why, or why the requested one cannot run."""
    try:
        name, reason = select(wanted, listen_socket=listen_socket)
    except SettingsError as error:
        return str(error).removeprefix("engine: ")
    return f"{name} ({reason})"


class _Problem(NamedTuple):
    what: str
    remedy: str


def _problem(listen_socket: str) -> _Problem | None:
    """Returns why the native engine cannot run; None if it can."""
    try:
        import_module("cache_sidecar._native")
    except ModuleNotFoundError:
        return _Problem("the native engine is not installed", _INSTALL)
    except ImportError as error:
        return _Problem(f"the native engine cannot be loaded ({error})", _INSTALL)
    if place_for_socket(listen_socket) is None:
        return _Problem("the native engine finds no writable folder for its private socket", _LET_WRITE)
    return None


def place_for_socket(listen_socket: str) -> str | None:
    """Returns a writable folder for the native engine's private socket; None if there is none."""
    places = [_temporary(), _SHARED_MEMORY, str(Path(listen_socket).parent) if listen_socket else ""]
    return next((place for place in places if place and _can_hold_socket(place)), None)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""


def _can_hold_socket(place: str) -> bool:
    return os.access(place, os.W_OK | os.X_OK) and len(place.encode()) + _OURS <= _LONGEST
