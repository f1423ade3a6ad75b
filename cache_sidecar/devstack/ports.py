"""Ports that nothing listens on."""

import socket
from collections.abc import Collection, Iterable

from cache_sidecar.errors import InputError

LAST_PORT = 65535
# Enough to find a free one on any sane machine, few enough to fail quickly on the others.
_ATTEMPTS = 2000


def is_free(host: str, port: int) -> bool:
    """Says whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As the servers do: a connection that was closed a moment ago does not make the port taken.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError:
        return False
    # macOS lets us bind next to somebody who listens on all addresses, so ask him too.
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.2)
        return caller.connect_ex((host, port)) != 0


def free_ports(wishes: Iterable[int], *, host: str = "127.0.0.1", beside: int = 0, promised: Collection[int] = ()) -> list[int]:
    """Returns a different free port for each wish: that port, or the next one above it that is free; for 0 any one.

    With `beside`, port + beside has to be free as well. Ports that are `promised` to somebody count as taken. Raises
    InputError when there are none.
    """
    chosen: list[int] = []
    taken = set(promised)
    for wish in wishes:
        port = _free_port(host, wish, beside, taken) if wish else _any_port(host)
        chosen.append(port)
        taken |= {port, port + beside}
    return chosen


def _free_port(host: str, wish: int, beside: int, taken: set[int]) -> int:
    last = min(LAST_PORT - beside, wish + _ATTEMPTS)
    for port in range(wish, last + 1):
        needed = {port, port + beside}
        if not needed & taken and all(is_free(host, one) for one in needed):
            return port
    raise InputError(f"no free port from {wish} to {last} on {host}")


def _any_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port: int = listener.getsockname()[1]
    return port
