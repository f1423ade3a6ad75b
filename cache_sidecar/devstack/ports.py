"""Ports that nothing listens on, and that no other stack is about to."""

import contextlib
import socket
from collections.abc import Iterable

from cache_sidecar.core.errors import InputError

LAST_PORT = 65535
# Enough to find a free one on any sane machine, few enough to fail quickly on the others.
_ATTEMPTS = 2000


class Ports:
    """Chooses ports, none twice, and keeps them from other stacks until `close` or the end of this process.

    Between choosing a port and listening on it lies the start of a server, and stacks that start side by side have the same
    wishes. So a port belongs to whoever holds the UDP port of the same number, which nobody needs for anything else.
    """

    def __init__(self) -> None:
        self._tokens: dict[int, socket.socket] = {}

    def choose(self, wishes: Iterable[int], *, host: str = "127.0.0.1", beside: int = 0) -> list[int]:
        """Returns a port for each wish: that port, or the next one above it that is free; for 0 any one.

        With `beside`, port + beside is kept as well. Raises InputError when there are none.
        """
        return [self._choose(wish or _any_port(host), host, beside) for wish in wishes]

    def close(self) -> None:
        """Gives them up."""
        for token in self._tokens.values():
            token.close()
        self._tokens.clear()

    def _choose(self, wish: int, host: str, beside: int) -> int:
        last = min(LAST_PORT - beside, wish + _ATTEMPTS)
        for port in range(wish, last + 1):
            if self._take(host, {port, port + beside}):
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


def free_ports(wishes: Iterable[int], *, host: str = "127.0.0.1", beside: int = 0) -> list[int]:
    """Returns what `Ports.choose` does, and keeps nothing: for ports far from those that others wish for."""
    ports = Ports()
    try:
        return ports.choose(wishes, host=host, beside=beside)
    finally:
        ports.close()


def is_free(host: str, port: int) -> bool:
    """Says whether a server could listen on the port now."""
    family = _family(host)
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


def _any_port(host: str) -> int:
    with socket.create_server((host, 0), family=_family(host)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
