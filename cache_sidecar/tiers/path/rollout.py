"""What goes past the caches of a dataset that is migrated to them: keys that are not rolled out yet, all of them in shadow."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.path.shadow import AskCaches, Same, Shadow
from cache_sidecar.tiers.ports import Record


class Rollout:
    """The rollout of one dataset."""

    def __init__(
        self,
        dataset: str,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, Record]]],
        *,
        policy: Callable[[], DatasetPolicy],
        key: Callable[[str], str],
        ask_caches: AskCaches,
        same: Same,
        shows_ids: bool,
        max_ids: int,
        max_running: int,
        max_waiting: int,
    ) -> None:
        """`load` reads PostgreSQL and fills nothing; `key` says what an id is rolled out by."""
        self._policy = policy
        self._key = key
        self.batch: Batch[Record] = Batch(load, max_ids=max_ids, max_running=max_running, max_waiting=max_waiting)
        self.shadow = Shadow(dataset, ask_caches=ask_caches, ask_store=self._read, same=same, shows_ids=shows_ids)

    def past(self, ids: list[str]) -> list[str]:
        """Returns those of the ids that PostgreSQL alone answers."""
        policy = self._policy()
        if policy.shadow:
            return ids
        return [] if policy.rollout >= 100 else [id for id in ids if not is_in(self._key(id), policy.rollout)]

    async def read(self, ids: list[str]) -> Mapping[str, Record]:
        """Reads from PostgreSQL, and in shadow has the caches of what is rolled out compared with it; errors as of the load."""
        records = await self._read(ids)
        policy = self._policy()
        if policy.shadow:
            rolled_out = {id: record for id, record in records.items() if is_in(self._key(id), policy.rollout)}
            self.shadow.compare(rolled_out)
        return records

    async def _read(self, ids: list[str]) -> Mapping[str, Record]:
        # No load under way is joined: what is read is no older than the question, as it is without any cache.
        return await self.batch.get(ids, fresh=True)

    def without_unread(self, changes: Mapping[str, Record | int]) -> Mapping[str, Record | int]:
        """Returns committed changes, only the version of those whose value this sidecar would not read from Redis.

        Others may: so they are told in any case, and whoever is to use Redis later has nothing to catch up on.
        """
        policy = self._policy()
        if policy.l2_enabled and policy.rollout >= 100:
            return changes
        return {
            id: change
            if isinstance(change, int) or (policy.l2_enabled and is_in(self._key(id), policy.rollout))
            else change.version
            for id, change in changes.items()
        }

    async def close(self) -> None:
        """Waits for the loads under way, and ends the comparisons."""
        await self.shadow.close()
        await self.batch.close()


def is_in(key: str, percent: float) -> bool:
    """Says whether a key is among the first so many percent: the same in every process and dataset.

    Who is in at 10 % is in at 50 %: a rollout that grows only adds keys.
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") * 100 < percent * 2**32


def empties_memory(old: DatasetPolicy, new: DatasetPolicy) -> bool:
    """Says whether a change of the policy has to drop what is held in memory.

    What is in memory answers without a further look at the rollout: so keys that leave it must not be there. A tier that is
    off keeps nothing, and begins with nothing. And expiries that an old jitter moved by more than the new one may would
    outlive the new times.
    """
    return (
        old.l1_enabled != new.l1_enabled
        or new.rollout < old.rollout
        or old.jitter * old.l1_hard_ttl > new.jitter * new.l1_hard_ttl
        or old.jitter * old.negative_ttl > new.jitter * new.negative_ttl
    )
