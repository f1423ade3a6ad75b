"""The state directory: it belongs to one running stack at a time, and holds all that the stack keeps."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from cache_sidecar.core.errors import InputError

# A unix socket's path may have 107 bytes on Linux and 103 on macOS.
LONGEST_SOCKET_PATH = 100


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, all of it or nothing."""
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
        """Makes the directory and locks it until `release`, or until this process ends in whatever way.

        Raises InputError when it cannot be used, or another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"cannot keep state in {self.path}: {error.strerror}") from None
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

    def release(self) -> None:
        """Lets others claim the directory."""
        shutil.rmtree(self._short_directory(), ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> Path:
        """Writes a file that only its owner may read, all of it or nothing; returns its path."""
        path = self.path / name
        write_private(path, text)
        return path

    def remove(self, name: str) -> None:
        """Removes a file that may exist."""
        (self.path / name).unlink(missing_ok=True)

    def socket(self, name: str) -> Path:
        """Returns where a unix socket may be put: here, or where the path is short enough.

        Raises InputError when somebody else holds the short place.
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
        # Anybody can make a directory of that name, or a link (which is open to all), under the temporary directory.
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise InputError(f"{directory} belongs to somebody else: choose a shorter state directory")
        return directory
