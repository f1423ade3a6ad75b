"""A Redis Cluster as one sidecar sees it: through proxies, so that this sidecar alone can be cut off."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.redis.node import Address
from tests.proxy import Proxy


def away(shards: RedisNodes) -> set[Address]:
    """Returns the primaries that are being left alone."""
    return {shard.address for shard in shards._owners.values() or shards._seeds if shard.is_away}


class Line:
    """The proxies, one per node."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = proxies

    @property
    def addresses(self) -> list[str]:
        """What to give to the sidecar as its nodes."""
        return [proxy.address for proxy in self._proxies]

    def to(self, address: str) -> Proxy:
        """Returns the proxy that the sidecar knows by `host:port`."""
        return next(proxy for proxy in self._proxies if proxy.address == address)

    def in_front_of(self, node: str) -> Proxy:
        """Returns the proxy in front of the node `host:port`."""
        return next(proxy for proxy in self._proxies if proxy.target == node)

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        for proxy in self._proxies:
            proxy.cut()

    def stall(self) -> None:
        """Leaves connections open, and forwards nothing."""
        for proxy in self._proxies:
            proxy.stall()

    def delay(self, seconds: float) -> None:
        """Forwards each piece of data, in either direction, that much later."""
        for proxy in self._proxies:
            proxy.delay(seconds)

    async def heal(self) -> None:
        """Works again."""
        for proxy in self._proxies:
            await proxy.heal()


@asynccontextmanager
async def line_to(nodes: Sequence[str]) -> AsyncIterator[Line]:
    """Opens a line to the nodes `host:port` of a cluster.

    Nodes tell of each other by their ports, in CLUSTER SLOTS and in redirections: those are translated on the way.
    """
    async with AsyncExitStack() as opened:
        proxies = [await opened.enter_async_context(Proxy(node)) for node in nodes]
        ports = {_port(node): _port(proxy.address) for node, proxy in zip(nodes, proxies, strict=True)}
        for proxy in proxies:
            proxy.translate = ports
        yield Line(proxies)


def _port(address: str) -> bytes:
    """Returns how both end: as RESP's integer, and in `MOVED 1234 127.0.0.1:7000`."""
    return b":" + address.rpartition(":")[2].encode() + b"\r\n"
