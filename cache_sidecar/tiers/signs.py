"""What a relay and the sidecars of its region tell each other through Redis, beside the changes themselves."""

from collections.abc import Mapping, Sequence

from redis.crc import key_slot

from cache_sidecar.tiers.connection import Connection
from cache_sidecar.tiers.names import Names
from cache_sidecar.tiers.shards import checked


class RedisSigns:
    """See `ports.Signs`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._shards = connection.shards
        self._names = names

    async def replication_ids(self) -> frozenset[str]:
        """Returns what names the history of each primary: another one after a failover, or a restart."""
        # One that is no primary any more names the history it follows now.
        replies = await self._shards.ask_all("INFO", "replication")
        return frozenset(_replication_id(checked(reply)) for reply in replies.values())

    async def caught_up(self, roles: Sequence[str], moment: float) -> None:
        """Says that Redis was told of whatever was committed before a moment in the databases of those roles."""
        for role in roles:
            key = self._names.told(role)
            await self._shards.ask(key_slot(key.encode()), "SET", key, f"{moment:.3f}")

    async def told_until(self, roles: Sequence[str]) -> Mapping[str, float]:
        """Returns the latest such moment of each role, in seconds since the epoch; those without one are left out."""
        found = {}
        for role in roles:
            key = self._names.told(role)
            if (moment := _number(await self._shards.ask(key_slot(key.encode()), "GET", key))) is not None:
                found[role] = moment
        return found


def _replication_id(info: bytes) -> str:
    return next(line for line in info.decode().splitlines() if line.startswith("master_replid:")).partition(":")[2]


def _number(value: bytes | str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None  # somebody else's
