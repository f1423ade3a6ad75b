"""Chooses free ports that no other stack is about to use."""

import contextlib
import socket
from collections.abc import Iterable

from cache_sidecar.core.errors import InputError

LAST_PORT = 65535
# Enough to find a free port on a normal machine, and few enough to fail quickly otherwise.
_ATTEMPTS = 2000


class Ports:
    """Chooses distinct ports and reserves them until `close` or the end of this process.

    A server needs time to start between the choice of its port and listening on it, and stacks that start in parallel prefer
    the same ports: without a reservation, both would find a port free. The reservation is the UDP port of the same number.
    """

    def __init__(self) -> None:
        self._tokens: dict[int, socket.socket] = {}

    def choose(self, wishes: Iterable[int], *, host: str = "127.0.0.1", companion_offset: int = 0) -> list[int]:
        """Returns a port for each wish: that port or the next free one above it; any free port for 0.

        With `companion_offset`, the port with that offset is reserved as well. Raises InputError if no port is free.
        """
        return [self._choose(wish or _any_port(host), host, companion_offset) for wish in wishes]

    def close(self) -> None:
        """Releases the reservations."""
        for token in self._tokens.values():
            token.close()
        self._tokens.clear()

    def _choose(self, wish: int, host: str, companion_offset: int) -> int:
        last = min(LAST_PORT - companion_offset, wish + _ATTEMPTS)
        for port in range(wish, last + 1):
            if self._take(host, {port, port + companion_offset}):
                return port
        raise InputError(f"no free port from {wish} to {last} on {host}")

    def _take(self, host: str, ports: set[int]) -> bool:
        with contextlib.ExitStack() as tokens:
            taken = {}
            for port in ports:
                token = tokens.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                with contextlib.suppress(OSError):
                    token.bind(("127.0.0.1", port))
                    taken[port] = token
            if len(taken) < len(ports) or not all(is_free(host, port) for port in ports):
                return False
            tokens.pop_all()
        self._tokens |= taken
        return True


def is_free(host: str, port: int) -> bool:
    """Returns whether a server could listen on the port now."""
    family = _family(host)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As the servers do: a recently closed connection does not make the port unavailable.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError:
        return False
    # macOS allows this bind even if another server listens on all addresses, so try to connect as well.
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.2)
        return caller.connect_ex((host, port)) != 0


def _any_port(host: str) -> int:
    with socket.create_server((host, 0), family=_family(host)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
