"""A private folder for a socket, which is removed after its process ends."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX, _RANDOM = "cache-sidecar-", "?" * 8
SOCKET = "aio.sock"


class PrivateDir:
    """A folder of mode 0700, with a lock that the process holds until it ends.

    The folder of a process that was killed is removed when the next one is created at the same place.
    """

    def __init__(self, place: str | None) -> None:
        """Creates it in the folder `place`, by default the system's temporary folder."""
        place = place or tempfile.gettempdir()
        for left in Path(place).glob(_PREFIX + _RANDOM):
            _remove_if_left(left)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            held = _hold(self.path)
            if held is not None:
                self._held: int | None = held
                return
            # Between `mkdtemp` and `_hold`, another process took it for a leftover and removed it: try again.

    @property
    def socket(self) -> Path:
        """The path of the socket."""
        return self.path / SOCKET

    def remove(self) -> None:
        """Removes the folder, and releases the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Locks a folder and returns the descriptor; None if another process holds it, or it is gone."""
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
    """Removes a folder that belongs to this user, contains nothing but the socket, and is not locked."""
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
