"""What a relay and the sidecars of its region tell each other through Redis, beside the changes themselves."""

from collections.abc import Mapping, Sequence

from redis.asyncio import Redis, RedisCluster

from cache_sidecar.tiers.l2 import Connection, Names, failures


class RedisSigns:
    """See `ports.Signs`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def replication_ids(self) -> frozenset[str]:
        """Returns what names the history of each primary: another one after a failover, or a restart."""
        with failures():
            client = await self._connection.client()
            if isinstance(client, Redis):
                nodes = [await client.info("replication")]
            else:
                # One that is no primary any more names the history it follows now.
                nodes = list((await client.info("replication", target_nodes=RedisCluster.PRIMARIES)).values())
        return frozenset(node["master_replid"] for node in nodes)

    async def caught_up(self, roles: Sequence[str], moment: float) -> None:
        """Says that Redis was told of whatever was committed before a moment in the databases of those roles."""
        with failures():
            client = await self._connection.client()
            for role in roles:
                await client.set(self._names.told(role), f"{moment:.3f}")

    async def told_until(self, roles: Sequence[str]) -> Mapping[str, float]:
        """Returns the latest such moment of each role, in seconds since the epoch; those without one are left out."""
        found = {}
        with failures():
            client = await self._connection.client()
            for role in roles:
                if (moment := _number(await client.get(self._names.told(role)))) is not None:
                    found[role] = moment
        return found


def _number(value: bytes | str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None  # somebody else's
