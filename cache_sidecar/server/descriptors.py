"""File descriptors: how many connections of clients leave enough of them for everything else.

A process without descriptors can neither accept a probe nor reconnect to a server. So the limit on connections follows
RLIMIT_NOFILE, and every listener has a few connections beyond it (see `native/src/limits.rs`) or a quota of its own (`aio.py`).
"""

import contextlib
import resource

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import SettingsError

# With the connection that the native engine makes to grpc.aio for streams, of which both ends are in this process.
_PER_CLIENT = 3
_MIN_CLIENTS = 64
# Of the interpreter, its libraries, the engine, and the files that are read now and then.
_OWN = 64
# Connections beyond the maximum that a listener accepts, as SPARE_CONNECTIONS in `native/src/limits.rs`, and itself.
_LISTENER = 33
# Redis nodes with connections to each; there may be more than settings name.
_NODES = 4


def raise_limit(settings: Settings) -> None:
    """Raises the soft limit on open files as far as this may be of use and the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _reserve(settings) + _PER_CLIENT * settings.max_connections
    highest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < highest:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower one that it does not report
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))


def of_clients(settings: Settings) -> int:
    """Returns how many descriptors the connections of clients may have. Raises SettingsError if they are too few."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserve = _reserve(settings)
    if limit == resource.RLIM_INFINITY:
        return _PER_CLIENT * settings.max_connections
    if limit - reserve < _MIN_CLIENTS:
        raise SettingsError(
            f"the process may open {limit} files, too few for its servers and clients: "
            f"raise the limit (`ulimit -n`) to at least {reserve + _MIN_CLIENTS}"
        )
    return limit - reserve


def _reserve(settings: Settings) -> int:
    """Returns how many descriptors everything except clients may need."""
    # A name such as localhost may have two addresses.
    listeners = 2 * bool(settings.listen_address) + bool(settings.listen_socket) + bool(settings.probe_socket)
    redis = settings.redis_max_connections * max(_NODES, len(settings.redis_nodes))
    postgres = settings.postgres_pool_size * len(settings.databases())
    return _OWN + _LISTENER * listeners + redis + postgres
