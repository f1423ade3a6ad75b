"""Several listeners of one dataset."""

from cache_sidecar.tiers.ports import InvalidationListener


class InvalidationListeners:
    """Passes everything on to each of its listeners, in their order; see `ports.InvalidationListener`."""

    def __init__(self, *followers: InvalidationListener) -> None:
        self._followers = followers

    def on_invalidate(self, id: str, version: int) -> None:
        """Passes on that an id has a new version."""
        for follower in self._followers:
            follower.on_invalidate(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Passes on that anything in a partition may have changed."""
        for follower in self._followers:
            follower.on_partition_reset(partition)

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Passes on whether a partition may be trusted."""
        for follower in self._followers:
            follower.on_lease_change(partition, trusted, late=late)
