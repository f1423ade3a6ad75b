"""What is made of files that others replace: made again when they change."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger("cache_sidecar_client")
LOOK_EVERY = 1.0
"Seconds between two looks at the files."

_Signature = tuple[int, int, int]


class Reread(Generic[T]):
    """The last value that could be made of files."""

    def __init__(
        self, files: Sequence[Path], make: Callable[[], T], *, ignored: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`make` raises OSError or ValueError if the files are of no use, as this does; `ignored` says so in the log."""
        self._files = files
        self._make = make
        self._ignored = ignored
        self._clock = clock
        self._lock = threading.Lock()
        self._look_at = clock() + LOOK_EVERY
        self._is_wrong = False
        self._seen = self._signatures()
        self.value = make()

    def look(self, *, now: bool = False) -> bool:
        """Returns whether there is another value, as the files have changed; looks at most once a second, unless `now`.

        Files that are of no use, as in the middle of a rotation, are ignored until they are; that is logged once.
        """
        if not now and self._clock() < self._look_at:
            return False
        with self._lock:
            self._look_at = self._clock() + LOOK_EVERY
            try:
                # From before they are read: if somebody replaces one meanwhile, they are read again at the next look.
                seen = self._signatures()
                has_changed = seen != self._seen
                if has_changed:
                    self.value, self._seen = self._make(), seen
            except (OSError, ValueError) as error:
                if not self._is_wrong:
                    _log.warning("%s: %s", self._ignored, error)
                self._is_wrong = True
                return False
            self._is_wrong = False
            return has_changed

    def _signatures(self) -> list[_Signature]:
        return [(one.st_mtime_ns, one.st_ino, one.st_size) for one in (file.stat() for file in self._files)]
