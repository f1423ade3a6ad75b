"""What this sidecar wrote itself: no later read of it is answered with less, whatever Redis says.

Redis may not have heard of a write, because it was away; and it may have lost one that it acknowledged, because another node,
which knew less, took over.
"""

from cache_sidecar.tiers.ports import Record

MAX_WRITTEN = 10_000


class OwnWrites:
    """The last ids written, and their versions."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def remember(self, id: str, version: int) -> None:
        """Takes in a committed write; when there are too many, the oldest is forgotten."""
        newest = max(version, self._versions.pop(id, 0))
        if len(self._versions) >= MAX_WRITTEN:
            del self._versions[next(iter(self._versions))]
        self._versions[id] = newest

    def outruns(self, id: str, record: Record) -> bool:
        """Whether a record is older than what was written."""
        return record.version < self._versions.get(id, 0)
