"""Partitions in which Redis refused to publish a change that this sidecar committed.

The relay publishes it again; the other sidecars receive it then, or mark their replies stale when the relay's watermark
does not advance. This one knows at once, and a Redis that refuses its writes probably refuses everybody's: so nothing would
be received here either. What memory and Redis hold of such a partition is quarantined until the relay has caught up, see
`quarantine.py`.
"""

from collections.abc import Iterable

from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import InvalidationListener, partition_of


class UnpublishedChanges:
    """Stands before a follower, see `ports.InvalidationListener`, and keeps the trust from it that is in doubt."""

    def __init__(self, follower: InvalidationListener, *, quarantine: Quarantine) -> None:
        """`quarantine` keeps reads away from what Redis holds of a partition in doubt."""
        self._follower = follower
        self._quarantine = quarantine
        self._trusted: set[int] = set()
        "The partitions that are listened to."
        self._doubted: set[int] = set()
        "Those of which Redis refused something."

    def refused(self, ids: Iterable[str]) -> None:
        """Takes that Redis refused to hear of a change of these ids."""
        partitions = {partition_of(id) for id in ids}
        # Its doubt begins anew with each refusal: marks that were seen before this one say nothing of it.
        self._quarantine.doubt(partitions)
        for partition in partitions - self._doubted:
            self._doubted.add(partition)
            if partition in self._trusted:
                self._follower.set_trusted(partition, False)

    def told(self, partition: int) -> None:
        """Takes that the quarantine's doubt of a partition has ended: the relay has told everything that was refused."""
        if partition not in self._doubted:
            return
        self._doubted.remove(partition)
        if partition in self._trusted:
            # What memory holds may lack what others committed meanwhile, and what was filled since is marked no better.
            self._follower.on_partition_reset(partition)
            self._follower.set_trusted(partition, True)

    def changed(self, id: str, version: int) -> None:
        """An id has a new version; 0 when it is only to be read again."""
        self._follower.changed(id, version)

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        self._follower.on_partition_reset(partition)

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told, and for how many seconds that has been so."""
        (self._trusted.add if trusted else self._trusted.discard)(partition)
        if partition not in self._doubted:
            self._follower.set_trusted(partition, trusted, late=late)
