"""Who PostgreSQL runs as."""

import os
import pwd
import stat
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.accounts import Account, make_traversable, server_account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be somebody else")


def test_a_user_is_himself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_account(tmp_path) is None


@as_root
def test_root_gives_his_directory_to_nobody(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    assert server_account(tmp_path) == Account(nobody.pw_uid, nobody.pw_gid)
    assert tmp_path.stat().st_uid == nobody.pw_uid


@as_root
def test_root_runs_as_the_owner_of_what_is_there(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    account = server_account(tmp_path)
    assert account == Account(12345, 12346)
    assert account.as_process_options() == {"user": 12345, "group": 12346, "extra_groups": []}


@as_root
def test_a_system_without_nobody_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", missing)
    with pytest.raises(InputError, match="does not run as root, and there is no user 'nobody'"):
        server_account(tmp_path)


def test_the_way_is_opened_for_passing_through_only(tmp_path: Path) -> None:
    target = tmp_path / "closed" / "open" / "data"
    target.mkdir(parents=True)
    for name, mode in (("closed", 0o700), ("closed/open", 0o711)):
        (tmp_path / name).chmod(mode)
    assert (tmp_path / "closed") in make_traversable(target)
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o701
    assert make_traversable(target) == []
