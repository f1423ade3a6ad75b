"""The folder of the private socket ends with its process, or is removed by the next one."""

import multiprocessing
import os
import signal
import socket
import stat
from pathlib import Path

from cache_sidecar.server.engines.private_dir import PrivateDir


def _listen_and_die(place: str) -> None:
    folder = PrivateDir(place)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder.socket))
        listening.listen()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_listen_and_die, args=(str(tmp_path),))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "aio.sock").is_socket()
    folder = PrivateDir(str(tmp_path))
    assert list(tmp_path.iterdir()) == [folder.path]
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.remove()
    folder.remove()
    assert not list(tmp_path.iterdir())


def test_the_folders_of_those_that_run_are_left_alone(tmp_path: Path) -> None:
    first = PrivateDir(str(tmp_path))
    first.socket.touch()
    second = PrivateDir(str(tmp_path))
    assert first.socket.exists()
    assert set(tmp_path.iterdir()) == {first.path, second.path}
    first.remove()
    second.remove()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    theirs = [tmp_path / "cache-sidecar-mine", tmp_path / "cache-sidecar-abcdefgh", tmp_path / "cache-sidecar-ijklmnop"]
    for folder in theirs:
        folder.mkdir(mode=0o700)
    (theirs[1] / "notes.txt").write_text("precious")
    theirs[2].chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "cache-sidecar-qrstuvwx").symlink_to(elsewhere)
    made = PrivateDir(str(tmp_path))
    made.remove()
    assert all(folder.is_dir() for folder in [*theirs, elsewhere])
