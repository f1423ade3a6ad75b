"""Reads everything that Redis holds of a dataset, a page at a time."""

from collections.abc import AsyncIterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from redis.crc import key_slot

from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import Routed, checked
from cache_sidecar.tiers.redis.keys import KeyNames

# Keys in one page.
PAGE = 500


class Kind(Enum):
    """What a key holds."""

    VALUE = auto()
    NONE = auto()
    "That there is no such resource."
    MARK = auto()
    "That something is being read, or out of date: nothing is answered with it."
    UNREADABLE = auto()
    "Somebody else's, or another version's: sidecars take it for nothing."


class StoredKey(NamedTuple):
    """What Redis holds of an id."""

    id: str
    kind: Kind
    version: int


class KeyScan:
    """Reads from primaries only. Methods raise TierFailed."""

    def __init__(self, connection: RedisClient, names: KeyNames) -> None:
        self._shards = connection.shards
        self._names = names

    async def pages(self, dataset: str) -> AsyncIterator[list[StoredKey]]:
        """Yields what is held of a dataset. A key that comes or goes meanwhile may be left out, or be there twice."""
        page: list[str] = []
        async for keys in self._shards.scan(self._names.keys_of(dataset), count=PAGE):
            page += [id for key in keys if (id := self._names.id_of(dataset, key)) is not None]
            while len(page) >= PAGE:
                yield await self.read(dataset, page[:PAGE])
                page = page[PAGE:]
        if page:
            yield await self.read(dataset, page)

    async def read(self, dataset: str, ids: Sequence[str]) -> list[StoredKey]:
        """Returns what is held of ids; those that are gone are left out."""
        keys = [self._names.key(dataset, id) for id in ids]
        # MGET finds nothing where there is something of another type; GET would be refused.
        values = [
            value[0]
            for value in map(checked, await self._shards.send([Routed(key_slot(key.encode()), ("MGET", key)) for key in keys]))
        ]
        return [_held(id, value) for id, value in zip(ids, values, strict=True) if value is not None]


def _held(id: str, value: Any) -> StoredKey:
    try:
        record = codec.decode(value)
    except codec.Unreadable:
        return StoredKey(id, Kind.UNREADABLE, 0)
    if record is None:
        return StoredKey(id, Kind.MARK, 0)
    return StoredKey(id, Kind.VALUE if record.value is not None else Kind.NONE, record.version)
