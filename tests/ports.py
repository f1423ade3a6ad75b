"""Ports for servers that a test starts later, as processes of their own."""

import random

from cache_sidecar.devstack.ports import free_ports
from cache_sidecar.devstack.valkey import BUS


def later_ports(count: int) -> list[int]:
    """Returns so many free ports, fit for a cluster, scattered so that sessions side by side don't choose the same.

    They are below those that the system gives to outgoing connections and to whoever listens on port 0. One of those may be
    gone before its server starts, and another session's server may be taken for the one that failed to.
    """
    first = random.randrange(10_000, 20_000)
    return free_ports(range(first, first + count), beside=BUS)
