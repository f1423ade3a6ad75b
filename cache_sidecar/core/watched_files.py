"""Detects changes of files, including those by a symlink on the path, as Kubernetes makes them for mounted volumes."""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

# Seconds between two checks; for whoever polls `have_changed`.
LOOK_EVERY = 0.25

_Signature = tuple[int, ...] | None


def read_file(file: str, limit: int = -1, *, is_secret: bool = False) -> bytes:
    """Returns the content of a file, up to `limit` bytes. Raises OSError, also for anything but a regular file.

    A FIFO in its place has no end and no content until somebody writes: reading it would block the event loop, and with it
    every call. With `is_secret`, a file that other users can read or change is an error, too.
    """
    # Without O_NONBLOCK, opening a FIFO already waits for its writer. Regular files ignore it.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", file)
        if is_secret:
            is_read_only = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
            if others := others_with_access(found, {os.getegid(), *os.getgroups()}, is_read_only=is_read_only):
                mode = stat.S_IMODE(found.st_mode)
                raise PermissionError(errno.EPERM, f"its mode {mode:04o} gives {others} access; chmod 600 removes it", file)
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            return opened.read(limit)
    finally:
        os.close(descriptor)


def others_with_access(found: os.stat_result, groups: Collection[int], *, is_read_only: bool) -> str:
    """Returns who can read or change a file besides its owner, root and the process's `groups`; empty if nobody can.

    Root's files on a read-only mount are fine whatever their mode. That is how the kubelet mounts a Secret: its files belong to
    root, so a process without root's rights reads them as one of all others; and only that container has the mount.
    """
    if found.st_uid == 0 and is_read_only:
        return ""
    if found.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return "all users"
    if found.st_mode & (stat.S_IRGRP | stat.S_IWGRP) and found.st_gid not in {0, *groups}:
        return f"group {found.st_gid}"
    return ""


class WatchedFiles:
    """Files whose changes are detected. Their contents are read by the owner."""

    def __init__(self, *files: str) -> None:
        """To be created before the files are first read, or a change in between would be missed."""
        self._files = files
        self._seen = self._reported = self._signatures()

    def have_changed(self) -> bool:
        """Returns true once per change, at the second check that finds the files unchanged: the writer has finished by then."""
        before, self._seen = self._seen, self._signatures()
        if self._seen != before or self._seen == self._reported:
            return False
        self._reported = self._seen
        return True

    def _signatures(self) -> list[_Signature]:
        return [_signature(file) for file in self._files]


def _signature(file: str) -> _Signature:
    """Returns a value that differs once the path leads to a different or modified file; None if there is no file."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    # The mode and owners, too: a file that was ignored because others could read it counts once they cannot.
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid, found.st_gid
