"""Reading files that somebody may have replaced by something else."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cache_sidecar.config import policy
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.password_file import read_password
from cache_sidecar.core.watched_files import WatchedFiles, others_with_access, read_file
from cache_sidecar.server.auth import Access
from cache_sidecar.server.revocations import Revocations
from tests.support.tokens import secret_file, token

READERS: dict[str, Callable[[str], object]] = {
    "policy": policy.read,
    "password": read_password,
    "tokens": Access,
    "names": lambda file: Access(clients_file=file),
    "revocations": lambda file: Revocations.read(file, file),
}


def test_what_is_in_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert (read_file(str(file)), read_file(str(file), 3)) == (b"content", b"con")


def test_nothing_waits_for_the_writer_of_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        read_file(str(tmp_path / "fifo"))


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_fifo_is_refused_with_one_line(reader: Callable[[str], object], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(SettingsError, match="not a regular file") as caught:
        reader(str(fifo))
    assert str(fifo) in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "is_read_only", "others"),
    [
        (0o600, 1000, 1000, False, ""),
        (0o400, 0, 0, False, ""),
        (0o604, 1000, 1000, False, "all users"),
        (0o602, 1000, 1000, False, "all users"),
        (0o601, 1000, 1000, False, ""),
        (0o660, 1000, 1000, False, ""),
        (0o640, 1000, 33, False, "group 33"),
        (0o620, 1000, 33, False, "group 33"),
        (0o640, 1000, 0, False, ""),
        # A Secret with fsGroup, and one without.
        (0o440, 0, 1000, True, ""),
        (0o444, 0, 0, True, ""),
        (0o644, 0, 33, True, ""),
        (0o444, 0, 0, False, "all users"),
        (0o444, 1000, 1000, True, "all users"),
    ],
)
def test_who_else_has_access_to_a_secret(mode: int, uid: int, gid: int, is_read_only: bool, others: str) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 1, 0, 0, 0))
    assert others_with_access(found, {1000, 1001}, is_read_only=is_read_only) == others


@pytest.mark.parametrize("name", ["password", "tokens"])
def test_a_secret_that_others_can_read_is_refused_with_one_line(name: str, tmp_path: Path) -> None:
    file = secret_file(tmp_path / "file", token("a"))
    READERS[name](str(file))
    (tmp_path / "link").symlink_to(file)
    file.chmod(0o604)
    for path in (file, tmp_path / "link"):
        with pytest.raises(SettingsError, match=r"its mode 0604 gives all users access; chmod 600 removes it$") as caught:
            READERS[name](str(path))
        assert str(path) in str(caught.value)


def test_a_change_of_the_mode_is_a_change(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "file", "content")
    watched = WatchedFiles(str(file))
    file.chmod(0o640)
    assert [watched.have_changed() for _ in range(3)] == [False, True, False]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    for name in (str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(OSError):
            read_file(name)
    assert psutil.Process().num_fds() == before
