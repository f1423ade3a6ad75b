"""The names of everything we have in Redis."""

import hashlib
from dataclasses import dataclass
from importlib import resources

from redis.crc import key_slot

from cache_sidecar.tiers.ports import PARTITIONS, partition_of

_TAGS = tuple(f"{{{partition:02x}}}" for partition in range(PARTITIONS))
_SLOTS = tuple(key_slot(tag.encode()) for tag in _TAGS)


@dataclass(frozen=True)
class KeyNames:
    """The names of everything we have in Redis, all within one namespace."""

    namespace: str

    def key(self, dataset: str, id: str) -> str:
        """Returns the key of an id's value."""
        return f"{self.namespace}:{dataset}:{_TAGS[partition_of(id)]}:{id}"

    def keys_of(self, dataset: str) -> str:
        """Returns the pattern of a dataset's keys."""
        return f"{self.namespace}:{dataset}:*"

    def id_of(self, dataset: str, key: bytes) -> str | None:
        """Returns the id whose value a key holds, or None for somebody else's key."""
        try:
            id = key.decode().removeprefix(f"{self.namespace}:{dataset}:")[len(_TAGS[0]) + 1 :]
        except UnicodeDecodeError:
            return None
        return id if self.key(dataset, id).encode() == key else None

    def claim(self, dataset: str, id: str) -> str:
        """Returns the key that says who refreshes an id."""
        return f"{self.namespace}:claim:{_TAGS[partition_of(id)]}:{dataset}:{id}"

    def counter(self, partition: int) -> str:
        """Returns the key that counts a partition's messages."""
        return f"{self.namespace}:seq:{_TAGS[partition]}"

    def channel(self, partition: int) -> str:
        """Returns the channel of a partition's messages."""
        return f"{self.namespace}:inv:{_TAGS[partition]}"

    def check(self, partition: int) -> tuple[str, str]:
        """Returns a key and a channel that nobody uses, to try what Redis allows; in the slot of a partition."""
        return f"{self.namespace}:check:{_TAGS[partition]}", f"{self.namespace}:inv:check:{_TAGS[partition]}"

    def told(self, role: str, partition: int) -> str:
        """Returns the key that says up to when a partition was told of everything committed in a database."""
        return f"{self.namespace}:told:{_TAGS[partition]}:{role}"

    def slot(self, partition: int) -> int:
        """Returns the cluster slot in which a partition lives."""
        return int(_SLOTS[partition])

    def library(self) -> tuple[str, str]:
        """Returns name and code of the function library."""
        code = resources.files("cache_sidecar.tiers.redis").joinpath("functions.lua").read_text()
        name = f"{self.namespace}_{hashlib.sha256(code.encode()).hexdigest()[:8]}"
        return name, f"#!lua name={name}\n{code.replace('LIBRARY', name)}"
