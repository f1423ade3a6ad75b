"""Files that are read again when they change: when one, or what a symlink on the way to it names, is another one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

# Seconds between two looks.
LOOK_EVERY = 0.25

_Signature = tuple[int, int, int, int] | None


class WatchedFiles:
    """What is looked at; read by whoever asks."""

    def __init__(self, *files: str) -> None:
        """To be made before the files are read for the first time."""
        self._files = files
        self._seen = self._taken = self._signatures()

    def have_changed(self) -> bool:
        """Says it once, at the second look that finds them the same: whoever writes them has finished."""
        before, self._seen = self._seen, self._signatures()
        if self._seen != before or self._seen == self._taken:
            return False
        self._taken = self._seen
        return True

    def _signatures(self) -> list[_Signature]:
        return [_signature(file) for file in self._files]


async def poll(look: Callable[[], None]) -> None:
    """Looks for ever."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        look()


def _signature(file: str) -> _Signature:
    """Returns what differs when a path leads to another file, or to a changed one; None when it leads nowhere."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
