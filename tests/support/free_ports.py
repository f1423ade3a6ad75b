"""Free ports for server processes that a test starts later."""

import contextlib
import random
from collections.abc import Callable, Iterable

from cache_sidecar.devstack.ports import Ports
from cache_sidecar.devstack.valkey import BUS

ChoosePorts = Callable[[int], list[int]]
"Given a number of ports, returns that many free ones."


def free_ports(wishes: Iterable[int], *, companion_offset: int = 0) -> list[int]:
    """Like `Ports.choose`, but without a reservation: for ports that no other stack prefers."""
    with contextlib.closing(Ports()) as ports:
        return ports.choose(wishes, companion_offset=companion_offset)


def later_ports(count: int) -> list[int]:
    """Returns free ports whose cluster bus ports are free too, from a random range, so that parallel sessions rarely collide.

    They are below the ephemeral range. A port from that range could be taken by an outgoing connection, or by a server of
    another session, before its own server starts; the test would then talk to the wrong server.
    """
    first = random.randrange(10_000, 20_000)
    return free_ports(range(first, first + count), companion_offset=BUS)
