"""The state directory: one owner at a time, private files, sockets with short paths."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.state import LONGEST_SOCKET_PATH, StateDirectory

_CLAIM = """
import sys
from pathlib import Path
from cache_sidecar.devstack.state import StateDirectory
StateDirectory(Path(sys.argv[1])).claim()
"""


def test_a_second_owner_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "new" / "state")
    state.claim()
    with pytest.raises(InputError, match=rf"^already running \(pid {os.getpid()}\) in .*state: stop it"):
        StateDirectory(state.path).claim()
    state.release()
    StateDirectory(state.path).claim()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _CLAIM, str(tmp_path)], check=True)
    state = StateDirectory(tmp_path)
    state.claim()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    state.release()


def test_a_directory_that_cannot_be_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cannot use the state directory .*file: File exists$"):
        StateDirectory(tmp_path / "file").claim()


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o644)
    path = state.write("secret", "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]
    state.remove("secret")
    state.remove("secret")
    assert not path.exists()


def test_a_socket_stays_in_the_directory_where_the_path_allows_it(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "a.sock").write_text("left by a kill -9")
    assert state.socket("a.sock") == tmp_path / "a.sock"
    assert not (tmp_path / "a.sock").exists()


def test_a_socket_with_a_long_path_moves_to_a_private_place_and_back(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / ("x" * LONGEST_SOCKET_PATH))
    path = state.socket("a.sock")
    assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert state.socket("a.sock") == path
    other = StateDirectory(tmp_path / ("y" * LONGEST_SOCKET_PATH))
    assert other.socket("a.sock") != path
    other.release()
    state.release()
    assert not path.parent.exists()


def test_somebody_elses_short_place_is_not_used(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / ("x" * LONGEST_SOCKET_PATH))
    place = state.socket("a.sock").parent
    place.rmdir()
    place.symlink_to(tmp_path)
    try:
        with pytest.raises(InputError, match="belongs to another user"):
            state.socket("a.sock")
    finally:
        place.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_short_place_of_another_user_is_not_used(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / ("x" * LONGEST_SOCKET_PATH))
    place = state.socket("a.sock").parent
    os.chown(place, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        state.socket("a.sock")
    state.release()
