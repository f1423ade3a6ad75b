"""Follows the outbox for all watchers of a sidecar: one reader of PostgreSQL, however many streams are open."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from cache_sidecar.core import tracing
from cache_sidecar.core.backoff import Backoff
from cache_sidecar.core.errors import ChangesExpired, Overloaded, TierFailed, WatchTooSlow
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.store.outbox import Change, Outbox

# Changes that may wait for a slow reader of a stream; more end the stream.
MAX_QUEUED = 2000
# Changes in one query.
PAGE = 1000
# Seconds between two reads when no change is announced.
POLL = 1.0
# Watchers that read their start and what they missed at once: all streams of an application begin together.
STARTING = 2


class Started(NamedTuple):
    """Where a watch starts: every change after the one with this version, of whatever dataset, follows."""

    version: int
    "0 when that change is not kept, or there was none: then a watch cannot resume there."


class Changes:
    """The changes of one database, from a position on, for any number of watchers."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._position = 0
        self._watchers: set[_Every | _Newest] = set()
        self._wake_up = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._reader: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()
        self._starting = asyncio.Semaphore(STARTING)

    def wake(self) -> None:
        """Has the reader look for new changes now."""
        self._wake_up.set()

    async def watch(self, dataset: str, after_version: int) -> AsyncIterator[Started | Change]:
        """Yields where it starts, then the changes of a dataset after the one with a version, or from now on for 0.

        Every change that is committed after the start was yielded follows; reads from then on see all earlier ones. Raises
        ChangesExpired when the change to start after is no longer kept, WatchTooSlow when the caller falls too far behind.
        """
        async with self._starting:
            position = await self._outbox.position(after_version)
            started = Started(after_version or await self._outbox.version(position))
        watcher = _Every(dataset)
        joined_at = await self._join(watcher)
        try:
            yield started
            async for change in self._read_missed(dataset, position, joined_at, after_version):
                yield change
            while (queued := await watcher.queue.get()) is not None:
                if queued.position > position:
                    yield queued
            raise WatchTooSlow
        finally:
            self._leave(watcher)

    async def versions(self, dataset: str, id: str) -> AsyncIterator[int]:
        """Yields 0 once every further change of one id will be seen, then the newest version after each change.

        A slow caller misses versions in between, but never the newest.
        """
        watcher = _Newest(dataset, id)
        await self._join(watcher)
        try:
            yield 0
            while True:
                await watcher.has_news.wait()
                watcher.has_news.clear()
                yield watcher.version
        finally:
            self._leave(watcher)

    async def _read_missed(self, dataset: str, position: int, until: int, version: int) -> AsyncIterator[Change]:
        """Yields the changes between a position and the one at which the watcher joined the reader."""
        while position < until:
            async with self._starting:
                page = await self._outbox.after(position, limit=PAGE, dataset=dataset)
                is_kept = not version or await self._outbox.is_kept(position)
            if not is_kept:
                raise ChangesExpired(version)  # the caller was slow: some of what followed may have been pruned
            for change in page:
                if change.position <= until:
                    yield change
            if len(page) < PAGE:
                return
            position, version = page[-1].position, page[-1].version

    async def _join(self, watcher: "_Every | _Newest") -> int:
        """Adds a watcher, and returns the position from which on the reader passes changes to it."""
        async with self._joining:
            if self._reader is None:
                self._position = await self._outbox.position(0)
                self._reader = self._tasks.spawn(self._read())
            self._watchers.add(watcher)
            return self._position

    def _leave(self, watcher: "_Every | _Newest") -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def _read(self) -> None:
        tracing.enter(None)  # it reads for all watchers, not for the first
        backoff = Backoff()
        while True:
            try:
                page = await self._outbox.after(self._position, limit=PAGE)
            except (TierFailed, Overloaded):
                # Logged where it arose. Announcements do not shorten the pause: each of them would be another attempt.
                await backoff.pause()
                continue
            backoff.reset()
            for change in page:
                self._position = change.position
                self._pass_on(change)
            if len(page) < PAGE:
                await self._wait()

    def _pass_on(self, change: Change) -> None:
        for watcher in list(self._watchers):
            if watcher.dataset == change.dataset and not watcher.add(change):
                self._watchers.discard(watcher)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._wake_up.wait()
        except TimeoutError:
            pass
        self._wake_up.clear()


class _Every:
    """Gets every change of a dataset, in order."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        # One place more than changes: None, the end of the stream, always fits.
        self.queue: asyncio.Queue[Change | None] = asyncio.Queue(MAX_QUEUED + 1)

    def add(self, change: Change) -> bool:
        """Queues a change; returns False when the watcher is too far behind."""
        fits = self.queue.qsize() < MAX_QUEUED
        self.queue.put_nowait(change if fits else None)
        return fits


class _Newest:
    """Gets the newest version of one id."""

    def __init__(self, dataset: str, id: str) -> None:
        self.dataset = dataset
        self._id = id
        self.version = 0
        self.has_news = asyncio.Event()

    def add(self, change: Change) -> bool:
        """Notes a change; returns True."""
        if change.id == self._id:
            self.version = change.version
            self.has_news.set()
        return True
