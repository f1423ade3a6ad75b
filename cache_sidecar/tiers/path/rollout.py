"""Reads that bypass the caches while a dataset is migrated to them: keys not rolled out yet, and in shadow all of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.path.loader import MAX_BATCH, MAX_WAITING, STORE_BATCHES
from cache_sidecar.tiers.path.shadow import AskCaches, Same, Shadow
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import Record


class Rollout:
    """The rollout of one dataset."""

    def __init__(
        self,
        tiers: Tiers,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, Record]]],
        *,
        ask_caches: AskCaches,
        key: Callable[[str], str],
        same: Same,
        shows_ids: bool,
    ) -> None:
        """`load` reads PostgreSQL and fills nothing; `key` returns what an id is rolled out by."""
        self._policy = tiers.policy
        self._key = key
        self.batch: Batch[Record] = Batch(
            load,
            max_ids=MAX_BATCH,
            max_running=STORE_BATCHES,
            max_waiting=MAX_WAITING,
            name=f"load of {tiers.name} from PostgreSQL alone",
        )
        self.shadow = Shadow(tiers.name, ask_caches=ask_caches, ask_store=self._read, same=same, shows_ids=shows_ids)

    def bypassing(self, ids: Sequence[str]) -> Sequence[str]:
        """Returns the ids that bypass the caches."""
        policy = self._policy()
        if policy.shadow:
            return ids
        return () if policy.rollout >= 100 else [id for id in ids if not is_in(self._key(id), policy.rollout)]

    async def read(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Reads PostgreSQL; in shadow, compares keys that are rolled out with the caches. Raises as the load does."""
        records = await self._read(ids)
        policy = self._policy()
        if policy.shadow:
            self.shadow.compare({id: record for id, record in records.items() if is_in(self._key(id), policy.rollout)})
        return records

    async def _read(self, ids: Sequence[str]) -> Mapping[str, Record]:
        # Joins no load under way: as without any cache, what is read is no older than the question.
        return await self.batch.get(ids, fresh=True)

    def drop_unread_values(self, changes: Mapping[str, Record | int]) -> Mapping[str, Record | int]:
        """Returns committed changes, with the bare version of those whose value this sidecar would not read from Redis.

        Other sidecars may read them, so the invalidation is published in any case, and Redis has nothing to catch up on when
        the rollout reaches a key.
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
    """Whether a key is among the first `percent` percent: the same in every process and dataset.

    A key that is in at 10 % is in at 50 %: a rollout that grows only adds keys.
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") * 100 < percent * 2**32


def empties_memory(old: DatasetPolicy, new: DatasetPolicy) -> bool:
    """Whether a change of the policy requires L1 to be emptied.

    L1 answers without looking at the rollout, so keys that leave the rollout must not be in it. A tier that is off keeps
    nothing, and starts with nothing. And expiries that the old jitter moved further than the new one may would outlive the new
    times.
    """
    return (
        old.l1_enabled != new.l1_enabled
        or new.rollout < old.rollout
        or old.jitter * old.l1_hard_ttl > new.jitter * new.l1_hard_ttl
        or old.jitter * old.negative_ttl > new.jitter * new.negative_ttl
    )
