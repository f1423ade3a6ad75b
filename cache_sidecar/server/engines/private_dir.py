"""A folder for a socket that nobody else can reach, which does not outlive its process for long."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX, _RANDOM = "cache-sidecar-", "?" * 8
SOCKET = "aio.sock"


class PrivateFolder:
    """A folder of mode 0700, held by a lock that ends with its process.

    What a process left that was killed is removed when the next folder is made beside it.
    """

    def __init__(self, place: str | None) -> None:
        """Makes it in the folder `place`; None for the system's temporary one."""
        place = place or tempfile.gettempdir()
        for left in Path(place).glob(_PREFIX + _RANDOM):
            _remove_if_left(left)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            held = _hold(self.path)
            if held is not None:
                self._held: int | None = held
                return
            # Another process took it for a leftover before it was held.

    @property
    def socket(self) -> Path:
        """The socket's path."""
        return self.path / SOCKET

    def remove(self) -> None:
        """Removes it, and lets go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Returns a file descriptor that holds a folder; None when another process holds it, or it is gone."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(held), folder.stat()):
            return held
    os.close(held)
    return None


def _remove_if_left(folder: Path) -> None:
    """Removes a folder that has what we put there and nothing else, is ours, and is held by nobody."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o77 or {entry.name for entry in folder.iterdir()} - {SOCKET}:
            return
        held = _hold(folder)
        if held is None:
            return
        with contextlib.suppress(OSError):
            (folder / SOCKET).unlink(missing_ok=True)
            folder.rmdir()
        os.close(held)
