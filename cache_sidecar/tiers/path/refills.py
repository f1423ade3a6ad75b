"""Work that goes on behind the replies: fills and refreshes. Bounded; what is too much is left out: nothing depends on it."""

import asyncio
from collections.abc import Callable, Coroutine

from cache_sidecar.core.tasks import log_failure

MAX_RUNNING = 64

Work = Coroutine[None, None, None]


class Refills:
    """The work behind the replies of one dataset."""

    def __init__(self) -> None:
        self._busy: set[tuple[str, str]] = set()
        self.running: set[asyncio.Task[None]] = set()

    def start(self, work: Work) -> asyncio.Task[None] | None:
        """Starts work, unless there is too much."""
        if len(self.running) >= MAX_RUNNING:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def once(self, kind: str, work: Callable[[str], Work], id: str) -> None:
        """Starts work on an id, unless work of that kind on it is going on."""
        what = kind, id
        if what not in self._busy and (task := self.start(work(id))):
            self._busy.add(what)
            task.add_done_callback(lambda _: self._busy.discard(what))

    async def ended(self) -> None:
        """Returns when nothing goes on."""
        while self.running:
            await asyncio.gather(*self.running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        log_failure(task)
