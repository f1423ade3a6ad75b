"""A region of the development stack: a Redis cluster with its sidecars and relay. All regions share one PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_sidecar.devstack.processes import Child
from cache_sidecar.devstack.sidecars import Sidecar
from cache_sidecar.devstack.valkey import ValkeyCluster


@dataclass(kw_only=True)
class Region:
    """The processes of one region."""

    name: str
    cluster: ValkeyCluster
    sidecars: list[Sidecar] = field(default_factory=list)
    relays: list[Child] = field(default_factory=list)


def name_in(name: str, number: int) -> str:
    """Returns the name of a server or file in a region, numbered from 0: with a suffix, except in the first region."""
    return f"{name}-{number + 1}" if number else name


def names(count: int) -> Sequence[str]:
    """Returns the names of `count` regions; for a single one, the default of the setting `region`."""
    return ["local"] if count == 1 else [f"region-{number}" for number in range(1, count + 1)]
