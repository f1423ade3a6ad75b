"""Several followers of one dataset."""

from cache_sidecar.tiers.ports import InvalidationListener


class InvalidationListeners:
    """Tells each of its followers, in their order; see `ports.InvalidationListener`."""

    def __init__(self, *followers: InvalidationListener) -> None:
        self._followers = followers

    def changed(self, id: str, version: int) -> None:
        """An id has a new version; 0 when it is only to be read again."""
        for follower in self._followers:
            follower.changed(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        for follower in self._followers:
            follower.on_partition_reset(partition)

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told, and for how many seconds that has been so."""
        for follower in self._followers:
            follower.set_trusted(partition, trusted, late=late)
