"""Partitions in which Redis refused to publish a change that this sidecar committed.

The relay publishes it again; the other sidecars receive it then, or mark their replies stale when the relay's watermark does
not advance. This sidecar knows at once. A Redis that refuses its writes probably refuses those of the others, too, so it would
not receive their changes either. What L1 and Redis hold of such a partition is therefore not trusted until the relay has caught
up, see `quarantine.py`.
"""

from collections.abc import Iterable

from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import InvalidationListener, partition_of


class UnpublishedChanges:
    """Stands in front of a listener, see `ports.InvalidationListener`, and withholds the trust in partitions in doubt."""

    def __init__(self, follower: InvalidationListener, *, quarantine: Quarantine) -> None:
        """`quarantine` keeps reads from what Redis holds of a partition in doubt."""
        self._follower = follower
        self._quarantine = quarantine
        self._trusted: set[int] = set()
        "The partitions whose changes are received."
        self._doubted: set[int] = set()
        "The partitions in which Redis refused to publish."

    def on_refusal(self, ids: Iterable[str]) -> None:
        """Redis refused to publish a change of these ids."""
        partitions = {partition_of(id) for id in ids}
        # Each refusal starts the doubt again: watermarks that were read before it do not cover this change.
        self._quarantine.doubt(partitions)
        for partition in partitions - self._doubted:
            self._doubted.add(partition)
            if partition in self._trusted:
                self._follower.on_lease_change(partition, False)

    def on_doubt_ended(self, partition: int) -> None:
        """The quarantine's doubt of a partition has ended: the relay has published everything that was refused."""
        if partition not in self._doubted:
            return
        self._doubted.remove(partition)
        if partition in self._trusted:
            # Memory may lack what others committed meanwhile; so may what was filled since, from a Redis just as far behind.
            self._follower.on_partition_reset(partition)
            self._follower.on_lease_change(partition, True)

    def on_invalidate(self, id: str, version: int) -> None:
        """Passes on that an id has a new version."""
        self._follower.on_invalidate(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Passes on that anything in a partition may have changed."""
        self._follower.on_partition_reset(partition)

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Passes on whether a partition may be trusted, unless it is in doubt."""
        (self._trusted.add if trusted else self._trusted.discard)(partition)
        if partition not in self._doubted:
            self._follower.on_lease_change(partition, trusted, late=late)
