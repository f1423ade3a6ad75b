"""A region of the development stack: a Redis cluster, and who works over it. All regions share one PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_sidecar.devstack.processes import Child
from cache_sidecar.devstack.sidecars import Sidecar
from cache_sidecar.devstack.valkey import ValkeyCluster


@dataclass(kw_only=True)
class Region:
    """What runs in it."""

    name: str
    cluster: ValkeyCluster
    sidecars: list[Sidecar] = field(default_factory=list)
    relays: list[Child] = field(default_factory=list)


def own(name: str, number: int) -> str:
    """Returns what something of that name is called in a region, counted from 0: the first one's go without a number."""
    return f"{name}-{number + 1}" if number else name


def names(count: int) -> Sequence[str]:
    """Returns the names of so many regions; a single one's is the default of the settings."""
    return ["local"] if count == 1 else [f"region-{number}" for number in range(1, count + 1)]
