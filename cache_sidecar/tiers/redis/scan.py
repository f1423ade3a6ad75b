"""Reads everything that Redis holds of a dataset, page by page."""

from collections.abc import AsyncIterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from redis.crc import key_slot

from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import Routed, unwrap
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.macs import Macs

# Keys in one page.
PAGE = 500


class Kind(Enum):
    """What a key holds."""

    VALUE = auto()
    NONE = auto()
    "A record that there is no such resource."
    MARK = auto()
    "A lease, or a mark that something is out of date: no read is answered with it."
    UNREADABLE = auto()
    "Written by another program or version, or without a valid MAC: sidecars treat it as absent."


class StoredKey(NamedTuple):
    """What Redis holds of an id."""

    id: str
    kind: Kind
    version: int


class KeyScan:
    """Reads from primaries only. Methods raise TierFailed."""

    def __init__(self, connection: RedisClient, names: KeyNames, *, macs: Macs | None = None) -> None:
        self._macs = macs
        self._cluster = connection.cluster
        self._names = names

    async def pages(self, dataset: str) -> AsyncIterator[list[StoredKey]]:
        """Yields what is held of a dataset. A key that is added or removed meanwhile may be missing, or appear twice."""
        page: list[str] = []
        async for keys in self._cluster.scan(self._names.keys_of(dataset), count=PAGE):
            page += [id for key in keys if (id := self._names.id_of(dataset, key)) is not None]
            while len(page) >= PAGE:
                yield await self.read(dataset, page[:PAGE])
                page = page[PAGE:]
        if page:
            yield await self.read(dataset, page)

    async def read(self, dataset: str, ids: Sequence[str]) -> list[StoredKey]:
        """Returns what is held of ids, without those that are gone."""
        keys = [self._names.key(dataset, id) for id in ids]
        # For a key of another type, MGET returns nothing, while GET would be refused.
        values = [
            value[0]
            for value in map(unwrap, await self._cluster.send([Routed(key_slot(key.encode()), ("MGET", key)) for key in keys]))
        ]
        found = zip(ids, keys, values, strict=True)
        return [self._describe(id, key, value) for id, key, value in found if value is not None]

    def _describe(self, id: str, key: str, value: Any) -> StoredKey:
        macs = self._macs
        try:
            record = codec.decode(value, None if macs is None else lambda mac, data: macs.is_valid(mac, key, data))
        except codec.Unreadable:
            return StoredKey(id, Kind.UNREADABLE, 0)
        if record is None:
            return StoredKey(id, Kind.MARK, 0)
        return StoredKey(id, Kind.VALUE if record.value is not None else Kind.NONE, record.version)
