"""Shadow: PostgreSQL answers, the caches run beside it, and what they would have answered is compared behind the reply.

The caches are asked after PostgreSQL has answered, so they may be ahead. They may also be behind for a moment: a change is
committed before they hear of it. So what differs is looked at once more after a while, and counts as a mismatch when the
caches still hold the same, and PostgreSQL still something else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from cache_sidecar.core import telemetry
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.tiers.ports import Answer, Record, Source

# Seconds a change may take to the caches before it counts as a mismatch.
SETTLE = 1.0
# Comparisons going on; more reads are not compared.
MAX_COMPARING = 64

Same = Callable[[bytes, bytes], bool]
"""Says whether two values say the same: there are many ways to write one message."""
AskCaches = Callable[[list[str]], Awaitable[Mapping[str, Answer]]]
AskStore = Callable[[list[str]], Awaitable[Mapping[str, Record]]]


class Shadow:
    """The comparisons of one dataset."""

    def __init__(self, dataset: str, *, ask_caches: AskCaches, ask_store: AskStore, same: Same, shows_ids: bool) -> None:
        """With `shows_ids`, the log names what differs."""
        self._dataset = dataset
        self._ask_caches = ask_caches
        self._ask_store = ask_store
        self._same = same
        self._shows_ids = shows_ids
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[str] = set()
        self.compared = 0
        "Reads that the caches would have answered, too."
        self.mismatches = 0
        "Those of them that they would have answered with something else than PostgreSQL holds."
        self.left_out = 0
        "Reads that were not compared, as too many comparisons were going on."

    def compare(self, stored: Mapping[str, Record]) -> None:
        """Compares what PostgreSQL answered with what the caches would have; in the background."""
        ids = [id for id in stored if id not in self._settling]
        self.left_out += len(stored) - len(ids)
        if len(self._tasks) >= MAX_COMPARING:
            self.left_out += len(ids)
        elif ids:
            task = asyncio.get_running_loop().create_task(self._compare({id: stored[id] for id in ids}))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

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
        """Whether the caches would have answered with something else that is not newer."""
        is_newer = 0 < stored.version < cached.version
        if is_newer or not _is_cached(cached):
            return False
        if cached.value is None or stored.value is None:
            return cached.value is not stored.value
        return not self._same(cached.value, stored.value)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        log_failure(task)

    async def close(self) -> None:
        """Ends the comparisons going on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _is_cached(answer: Answer) -> bool:
    return answer.source is not Source.STORE and not answer.stale
