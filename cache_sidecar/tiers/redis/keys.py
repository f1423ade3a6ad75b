"""The names of all keys and channels that we use in Redis."""

from dataclasses import dataclass
from hashlib import blake2b

from redis.crc import key_slot

from cache_sidecar.tiers.ports import PARTITIONS, partition_of

_TAGS = tuple(f"{{{partition:02x}}}" for partition in range(PARTITIONS))
_SLOTS = tuple(key_slot(tag.encode()) for tag in _TAGS)


@dataclass(frozen=True)
class KeyNames:
    """The names within one namespace."""

    namespace: str

    def key(self, dataset: str, id: str) -> str:
        """Returns the key of an id's value."""
        return f"{self.namespace}:{dataset}:{_TAGS[partition_of(id)]}:{id}"

    def keys_of(self, dataset: str) -> str:
        """Returns the pattern of a dataset's keys."""
        return f"{self.namespace}:{dataset}:*"

    def id_of(self, dataset: str, key: bytes) -> str | None:
        """Returns the id whose value a key holds, or None for a key of another program."""
        try:
            id = key.decode().removeprefix(f"{self.namespace}:{dataset}:")[len(_TAGS[0]) + 1 :]
        except UnicodeDecodeError:
            return None
        return id if self.key(dataset, id).encode() == key else None

    def claim(self, dataset: str, id: str) -> str:
        """Returns the key of the claim to refresh an id."""
        return f"{self.namespace}:claim:{_TAGS[partition_of(id)]}:{dataset}:{id}"

    def counter(self, partition: int) -> str:
        """Returns the key that counts a partition's messages."""
        return f"{self.namespace}:seq:{_TAGS[partition]}"

    def channel(self, partition: int) -> str:
        """Returns the channel of a partition's messages."""
        return f"{self.namespace}:inv:{_TAGS[partition]}"

    def probe(self, partition: int, name: str) -> str:
        """Returns a channel of one subscription, in the slot of a partition; its name is that of no partition's channel."""
        return f"{self.namespace}:inv:probe:{_TAGS[partition]}:{name}"

    def check(self, partition: int) -> tuple[str, str]:
        """Returns a key and a channel without other use, to try what Redis permits; in the slot of a partition."""
        return f"{self.namespace}:check:{_TAGS[partition]}", f"{self.namespace}:inv:check:{_TAGS[partition]}"

    def reading(self, partition: int, names: bytes) -> str:
        """Returns the key under which a reading of keys with these names is shared, in the slot of a partition."""
        return f"{self.namespace}:reading:{_TAGS[partition]}:{blake2b(names, digest_size=8).hexdigest()}"

    def watermark(self, role: str, partition: int) -> str:
        """Returns the key of a partition's watermark: up to when what was committed in a database has been published."""
        return f"{self.namespace}:told:{_TAGS[partition]}:{role}"

    def events(self, partition: int) -> str:
        """Returns the key of a stream of user events."""
        return f"{self.namespace}:events:{_TAGS[partition]}"

    def slot(self, partition: int) -> int:
        """Returns the cluster slot of a partition."""
        return int(_SLOTS[partition])
