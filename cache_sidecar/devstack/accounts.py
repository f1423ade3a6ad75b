"""The account of the PostgreSQL server if we run as root, because PostgreSQL refuses to run as root."""

import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple, TypedDict

from cache_sidecar.core.errors import InputError

# An account that exists on every system.
_ACCOUNT = "nobody"


class ProcessOptions(TypedDict, total=False):
    """Options of subprocess; none for a child that runs as our own user."""

    user: int
    group: int
    extra_groups: list[int]


class Account(NamedTuple):
    """A system user."""

    user: int
    group: int

    def as_process_options(self) -> ProcessOptions:
        """Returns the options of subprocess that run a child as this user, without further groups."""
        return {"user": self.user, "group": self.group, "extra_groups": []}

    def chown(self, path: Path) -> None:
        """Makes the user the owner of a file or directory."""
        os.chown(path, self.user, self.group)


def server_account(directory: Path) -> Account | None:
    """Returns the account for a server with its data in `directory`; None for our own.

    As root: the owner of the directory. If that is root, `nobody`, which becomes the owner.
    """
    if os.geteuid() != 0:
        return None
    owner = directory.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise InputError(
            f"PostgreSQL does not run as root, and there is no user {_ACCOUNT!r}: run this as another user"
        ) from None
    account = Account(entry.pw_uid, entry.pw_gid)
    account.chown(directory)
    return account


def make_traversable(path: Path) -> list[Path]:
    """Lets other users traverse, but not list, the directories above `path`. Returns those that it changed."""
    closed = [parent for parent in path.resolve().parents if not parent.stat().st_mode & stat.S_IXOTH]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    return closed
