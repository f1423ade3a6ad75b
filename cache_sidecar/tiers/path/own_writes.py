"""Read-your-writes: no later read of what this sidecar wrote is answered with less, whatever Redis returns.

Redis may not have received a write, because it was down; and it may have lost one that it acknowledged, because a replica that
had not received it was promoted.
"""

from cache_sidecar.tiers.ports import Record

MAX_WRITTEN = 10_000


class OwnWrites:
    """The ids that this sidecar wrote last, and their versions."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def remember(self, id: str, version: int) -> None:
        """Remembers a committed write; when there are too many, the oldest is forgotten."""
        newest = max(version, self._versions.pop(id, 0))
        if len(self._versions) >= MAX_WRITTEN:
            del self._versions[next(iter(self._versions))]
        self._versions[id] = newest

    def supersedes(self, id: str, record: Record) -> bool:
        """Whether a record is older than what this sidecar wrote."""
        return record.version < self._versions.get(id, 0)
