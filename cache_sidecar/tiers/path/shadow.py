"""Shadow mode: PostgreSQL answers, and what the caches would have answered is compared with it behind the reply.

The caches are asked after PostgreSQL has answered, so they may be ahead. They may also be behind for a moment, between a commit
and its invalidation. So what differs is read again from both after `SETTLE` seconds, and counts as a mismatch if the caches
still return the same and PostgreSQL still something else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cache_sidecar.core import telemetry
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.tiers.ports import Answer, Record, Source

# Seconds that a change may take to reach the caches before it counts as a mismatch.
SETTLE = 1.0
# Comparisons that run at the same time; further reads are not compared.
MAX_COMPARING = 64

Same = Callable[[bytes, bytes], bool]
"""Whether two values are equal in content: one message can be serialized in many ways."""
AskCaches = Callable[[list[str]], Awaitable[Mapping[str, Answer]]]
AskStore = Callable[[Sequence[str]], Awaitable[Mapping[str, Record]]]


class Shadow:
    """The comparisons of one dataset."""

    def __init__(self, dataset: str, *, ask_caches: AskCaches, ask_store: AskStore, same: Same, shows_ids: bool) -> None:
        """With `shows_ids`, log lines name the id that differs."""
        self._dataset = dataset
        self._ask_caches = ask_caches
        self._ask_store = ask_store
        self._same = same
        self._shows_ids = shows_ids
        self.comparing = BackgroundTasks(max_running=MAX_COMPARING)
        self._settling: set[str] = set()
        self.compared = 0
        "Reads that the caches would have answered, too."
        self.mismatches = 0
        "Those that the caches would have answered differently from what PostgreSQL holds."
        self.left_out = 0
        "Reads that were not compared because too many comparisons were running."

    def compare(self, stored: Mapping[str, Record]) -> None:
        """Compares PostgreSQL's answers with those of the caches, in the background."""
        ids = [id for id in stored if id not in self._settling]
        self.left_out += len(stored) - len(ids)
        if ids and not self.comparing.try_spawn(self._compare({id: stored[id] for id in ids})):
            self.left_out += len(ids)

    async def _compare(self, stored: Mapping[str, Record]) -> None:
        cached = await self._ask_caches(list(stored))
        self.compared += sum(_is_cached(answer) for answer in cached.values())
        suspects = {id: answer for id, answer in cached.items() if self._differs(answer, stored[id])}
        if not suspects:
            return
        self._settling |= suspects.keys()
        try:
            await asyncio.sleep(SETTLE)
            stored = await self._ask_store(list(suspects))
            cached = await self._ask_caches(list(suspects))
        finally:
            self._settling -= suspects.keys()
        for id, first in suspects.items():
            again = cached[id]
            if (again.version, again.value) == (first.version, first.value) and self._differs(again, stored[id]):
                self.mismatches += 1
                named = {"id": id} if self._shows_ids else {}
                versions = {"cached_version": again.version, "stored_version": stored[id].version}
                telemetry.log.warning(
                    "shadow mismatch: the caches would have answered differently", dataset=self._dataset, **versions, **named
                )

    def _differs(self, cached: Answer, stored: Record) -> bool:
        """Whether the caches would have answered differently, and not with something newer."""
        is_newer = 0 < stored.version < cached.version
        if is_newer or not _is_cached(cached):
            return False
        if cached.value is None or stored.value is None:
            return cached.value is not stored.value
        return not self._same(cached.value, stored.value)

    async def close(self) -> None:
        """Stops the running comparisons."""
        await self.comparing.stop()


def _is_cached(answer: Answer) -> bool:
    return answer.source is not Source.STORE and not answer.stale
