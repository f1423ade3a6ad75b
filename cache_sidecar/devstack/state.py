"""The state directory: owned by one running stack at a time, and containing everything that the stack stores."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from cache_sidecar.core.errors import InputError

# The limit for the path of a Unix socket is 107 bytes on Linux and 103 on macOS.
LONGEST_SOCKET_PATH = 100


def write_private(path: Path, text: str) -> None:
    """Writes a file atomically, readable only by its owner."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
    new.replace(path)


class StateDirectory:
    """A directory with a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def claim(self) -> None:
        """Creates the directory and locks it until `release` or the end of this process.

        Raises InputError if it cannot be used or another process has locked it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"cannot use the state directory {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode().strip() or "unknown"
            os.close(lock)
            raise InputError(
                f"already running (pid {holder}) in {self.path}: stop it, or choose another state directory"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def holder(self) -> int | None:
        """Returns the pid of the process that has locked the directory, None if there is none."""
        try:
            with (self.path / "lock").open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return int(lock.read(32))
        except (OSError, ValueError):
            return None
        return None

    def release(self) -> None:
        """Unlocks the directory."""
        shutil.rmtree(self._short_directory(), ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> Path:
        """Writes a file atomically, readable only by its owner. Returns its path."""
        path = self.path / name
        write_private(path, text)
        return path

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def socket(self, name: str) -> Path:
        """Returns the path for a Unix socket: in this directory, or in the temporary directory if the path would be too long.

        Raises InputError if that place in the temporary directory belongs to another user.
        """
        path = self.path / name
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            path = self._make_short_directory() / name
        path.unlink(missing_ok=True)
        return path

    def _short_directory(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir(), f"cache-sidecar-{digest}")

    def _make_short_directory(self) -> Path:
        directory = self._short_directory()
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        # Any user can create a directory or a link of that name in the temporary directory (a link has all permissions set).
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise InputError(f"{directory} belongs to another user: choose a state directory with a shorter path")
        return directory
