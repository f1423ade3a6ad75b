"""A Redis Cluster as one sidecar sees it: through proxies, so that this sidecar alone can be cut off."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from cache_sidecar.tiers.redis.cluster import RedisNodes
from cache_sidecar.tiers.redis.node import Address
from tests.support import inside
from tests.support.proxy import Proxy


def away(shards: RedisNodes) -> set[Address]:
    """Returns the primaries that are treated as unreachable."""
    return {shard.address for shard in inside.owners_of(shards).values() or inside.seeds_of(shards) if inside.is_away(shard)}


class Line:
    """The proxies, one per node."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = proxies

    @property
    def addresses(self) -> list[str]:
        """The sidecar's setting `redis_nodes`."""
        return [proxy.address for proxy in self._proxies]

    def to(self, address: str) -> Proxy:
        """Returns the proxy whose own address is `host:port`."""
        return next(proxy for proxy in self._proxies if proxy.address == address)

    def in_front_of(self, node: str) -> Proxy:
        """Returns the proxy in front of the node `host:port`."""
        return next(proxy for proxy in self._proxies if proxy.target == node)

    def cut(self) -> None:
        """Drops every connection and refuses new ones."""
        for proxy in self._proxies:
            proxy.cut()

    def stall(self) -> None:
        """Keeps connections open and forwards nothing."""
        for proxy in self._proxies:
            proxy.stall()

    def delay(self, seconds: float) -> None:
        """Delays each piece of data, in both directions."""
        for proxy in self._proxies:
            proxy.delay(seconds)

    async def heal(self) -> None:
        """Ends all faults."""
        for proxy in self._proxies:
            await proxy.heal()


@asynccontextmanager
async def line_to(nodes: Sequence[str], *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    """Opens a line to the nodes `host:port` of a cluster, over TLS if a context is given.

    Nodes name each other by port, in CLUSTER SLOTS and in redirections: the proxies translate these ports.
    """
    async with AsyncExitStack() as opened:
        proxies = [await opened.enter_async_context(Proxy(node, tls=tls)) for node in nodes]
        ports = {_port(node): _port(proxy.address) for node, proxy in zip(nodes, proxies, strict=True)}
        for proxy in proxies:
            proxy.translate = ports
        yield Line(proxies)


def _port(address: str) -> bytes:
    """Returns what a RESP integer and `MOVED 1234 127.0.0.1:7000` both end with."""
    return b":" + address.rpartition(":")[2].encode() + b"\r\n"
