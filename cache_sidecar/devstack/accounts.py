"""Who PostgreSQL runs as when we are root, since it refuses to be root."""

import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple, TypedDict

from cache_sidecar.core.errors import InputError

# Every system has this account, so none has to be made.
_ACCOUNT = "nobody"


class ProcessOptions(TypedDict, total=False):
    """What subprocess takes; nothing for a child that is the same user as we are."""

    user: int
    group: int
    extra_groups: list[int]


class Account(NamedTuple):
    """A system user."""

    user: int
    group: int

    def as_process_options(self) -> ProcessOptions:
        """Returns the options of subprocess that make a child this user and nothing more."""
        return {"user": self.user, "group": self.group, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Makes the user the owner of a file or directory."""
        os.chown(path, self.user, self.group)


def server_account(directory: Path) -> Account | None:
    """Returns the account that a server with its data in `directory` has to run as; None for our own.

    As root: whoever the directory belongs to, or `nobody` for one of root's, which then is given to it.
    """
    if os.geteuid() != 0:
        return None
    owner = directory.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise InputError(f"PostgreSQL does not run as root, and there is no user {_ACCOUNT!r}: be another user") from None
    account = Account(entry.pw_uid, entry.pw_gid)
    account.own(directory)
    return account


def open_way(path: Path) -> list[Path]:
    """Lets other users pass through the directories above `path`, not list them; returns those that were changed."""
    closed = [parent for parent in path.resolve().parents if not parent.stat().st_mode & stat.S_IXOTH]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    return closed
