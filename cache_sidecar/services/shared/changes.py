"""Follows the outbox for all watchers of a sidecar: one reader of PostgreSQL, however many streams are open."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from cache_sidecar.core.backoff import Backoff
from cache_sidecar.core.errors import ChangesExpired, Overloaded, TierFailed, WatchTooSlow
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.store.outbox import Change, Outbox

# Changes that may wait for a slow reader of a stream; more end the stream.
MAX_BEHIND = 2000
# Changes in one query.
PAGE = 1000
# A change that nobody announced is noticed after this many seconds.
POLL = 1.0
# Watchers that ask PostgreSQL where they begin and what they missed, at once: all streams of an application begin together.
BEGINNING = 2


class Started(NamedTuple):
    """Where a watch starts: it tells every change after the one with this version, of whatever dataset."""

    version: int
    "0 when that one is not kept, or there was none: then nobody can resume there."


class Changes:
    """The changes of one database, from a position on, for any number of watchers."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._position = 0
        self._watchers: set[_Every | _Newest] = set()
        self._woken = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._beginning = asyncio.Semaphore(BEGINNING)

    def wake(self) -> None:
        """Says that there is something new to read."""
        self._woken.set()

    async def watch(self, dataset: str, after_version: int) -> AsyncIterator[Started | Change]:
        """Yields where it starts, then the changes of a dataset after the one with a version, or from now on for 0.

        What is committed once the start was yielded is told; what is read from then on has all that was committed before it.
        Raises ChangesExpired when that change is no longer kept, WatchTooSlow when the caller falls too far behind.
        """
        async with self._beginning:
            position = await self._outbox.position(after_version)
            started = Started(after_version or await self._outbox.version(position))
        watcher = _Every(dataset)
        joined_at = await self._join(watcher)
        try:
            yield started
            async for change in self._missed(dataset, position, joined_at, after_version):
                yield change
            while (told := await watcher.queue.get()) is not None:
                if told.position > position:
                    yield told
            raise WatchTooSlow
        finally:
            self._leave(watcher)

    async def versions(self, dataset: str, id: str) -> AsyncIterator[int]:
        """Yields 0 as soon as no change of one id is missed, then the newest version after each change.

        A caller who is slow misses those between, and never the newest.
        """
        watcher = _Newest(dataset, id)
        await self._join(watcher)
        try:
            yield 0
            while True:
                await watcher.changed.wait()
                watcher.changed.clear()
                yield watcher.version
        finally:
            self._leave(watcher)

    async def _missed(self, dataset: str, position: int, until: int, version: int) -> AsyncIterator[Change]:
        while position < until:
            async with self._beginning:
                page = await self._outbox.after(position, limit=PAGE, dataset=dataset)
                is_kept = not version or await self._outbox.is_kept(position)
            if not is_kept:
                raise ChangesExpired(version)  # a slow caller: what followed may be deleted by now
            for change in page:
                if change.position <= until:
                    yield change
            if len(page) < PAGE:
                return
            position, version = page[-1].position, page[-1].version

    async def _join(self, watcher: "_Every | _Newest") -> int:
        async with self._joining:
            if self._reader is None:
                self._position = await self._outbox.position(0)
                self._reader = asyncio.get_running_loop().create_task(self._read())
                self._reader.add_done_callback(log_failure)
            self._watchers.add(watcher)
            return self._position

    def _leave(self, watcher: "_Every | _Newest") -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _read(self) -> None:
        backoff = Backoff()
        while True:
            try:
                page = await self._outbox.after(self._position, limit=PAGE)
            except (TierFailed, Overloaded):
                # The database has said why. Whatever is announced meanwhile wakes nobody: that would be a try for each.
                await backoff.pause()
                continue
            backoff.reset()
            for change in page:
                self._position = change.position
                self._tell(change)
            if len(page) < PAGE:
                await self._wait()

    def _tell(self, change: Change) -> None:
        for watcher in list(self._watchers):
            if watcher.dataset == change.dataset and not watcher.take(change):
                self._watchers.discard(watcher)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()


class _Every:
    """Wants every change of a dataset, in order."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        # One place more than counts: the end of the stream always fits.
        self.queue: asyncio.Queue[Change | None] = asyncio.Queue(MAX_BEHIND + 1)

    def take(self, change: Change) -> bool:
        """Takes a change; False when it is too far behind."""
        fits = self.queue.qsize() < MAX_BEHIND
        self.queue.put_nowait(change if fits else None)
        return fits


class _Newest:
    """Wants the newest change of one id."""

    def __init__(self, dataset: str, id: str) -> None:
        self.dataset = dataset
        self._id = id
        self.version = 0
        self.changed = asyncio.Event()

    def take(self, change: Change) -> bool:
        """Takes a change; always True."""
        if change.id == self._id:
            self.version = change.version
            self.changed.set()
        return True
