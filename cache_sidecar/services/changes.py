"""Follows the outbox for all watchers of a sidecar: one reader of PostgreSQL, however many streams are open."""

import asyncio
from collections.abc import AsyncIterator

from cache_sidecar import telemetry
from cache_sidecar.errors import TierFailed, WatchTooSlow
from cache_sidecar.store.outbox import Change, Outbox

# Changes that may wait for a slow reader of a stream; more end the stream.
MAX_BEHIND = 2000
# Changes in one query.
PAGE = 1000
# A change that nobody announced is noticed after this many seconds.
POLL = 1.0


class Changes:
    """The changes of one database, from a position on, for any number of watchers."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._position = 0
        self._watchers: set[asyncio.Queue[Change | None]] = set()
        self._woken = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()

    def wake(self) -> None:
        """Says that there is something new to read."""
        self._woken.set()

    async def watch(self, dataset: str, after_version: int) -> AsyncIterator[Change]:
        """Yields the changes of a dataset after the one with a version, or from now on for 0.

        Raises ChangesExpired when that change is no longer kept, WatchTooSlow when the caller falls too far behind.
        """
        position = await self._outbox.position(after_version)
        queue, joined_at = await self._join()
        try:
            async for change in self._missed(dataset, position, joined_at):
                yield change
            while (told := await queue.get()) is not None:
                if told.dataset == dataset and told.position > position:
                    yield told
            raise WatchTooSlow
        finally:
            self._watchers.discard(queue)
            if not self._watchers and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _missed(self, dataset: str, position: int, until: int) -> AsyncIterator[Change]:
        while position < until:
            page = await self._outbox.after(position, limit=PAGE, dataset=dataset)
            for change in page:
                if change.position <= until:
                    yield change
            if len(page) < PAGE:
                return
            position = page[-1].position

    async def _join(self) -> tuple[asyncio.Queue[Change | None], int]:
        async with self._joining:
            if self._reader is None:
                self._position = await self._outbox.position(0)
                self._reader = asyncio.get_running_loop().create_task(self._read())
            # One place more than counts: the end of the stream always fits.
            queue: asyncio.Queue[Change | None] = asyncio.Queue(MAX_BEHIND + 1)
            self._watchers.add(queue)
            return queue, self._position

    async def _read(self) -> None:
        while True:
            try:
                page = await self._outbox.after(self._position, limit=PAGE)
            except TierFailed as error:
                telemetry.log.warning("changes cannot be read; trying again", error=str(error))
                page = []
            for change in page:
                self._position = change.position
                self._tell(change)
            if len(page) < PAGE:
                await self._wait()

    def _tell(self, change: Change) -> None:
        for queue in list(self._watchers):
            if queue.qsize() >= MAX_BEHIND:
                self._watchers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(change)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()
