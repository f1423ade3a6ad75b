"""Which engine runs, and what is said when it is not the one that was asked for."""

import sys
from pathlib import Path

import pytest

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server.engines import selection
from cache_sidecar.server.engines.selection import choose, explain
from tests.engines import needs_native


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_sidecar._native", None)


@needs_native
def test_the_native_engine_runs_where_it_is_installed() -> None:
    assert choose("auto") == ("native", "it is installed")
    assert choose("native") == ("native", "it was asked for")
    assert explain("auto") == "native, as it is installed"


def test_grpc_aio_runs_where_it_is_asked_for() -> None:
    assert choose("aio") == ("aio", "it was asked for")


def test_grpc_aio_runs_where_the_other_is_missing(without_native: None) -> None:
    assert choose("auto") == ("aio", "the native engine is not installed")


def test_one_that_was_asked_for_and_is_missing_is_refused_with_what_to_do(without_native: None) -> None:
    with pytest.raises(
        SettingsError, match=r"^engine: the native engine is not installed: install Rust .* or set engine to auto$"
    ):
        choose("native")
    assert explain("native").startswith("the native engine is not installed: install Rust")


@needs_native
def test_the_private_socket_goes_where_it_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selection, "_temporary", lambda: "")
    monkeypatch.setattr(selection, "_SHARED_MEMORY", str(tmp_path / "missing"))
    beside = Path("/tmp") if len(str(tmp_path)) > 60 else tmp_path
    assert selection.place_for_socket(str(beside / "listen.sock")) == str(beside)
    assert choose("auto") == ("aio", "the native engine finds no folder for a socket of its own")
    with pytest.raises(SettingsError, match="let it write in /tmp"):
        choose("native")


def test_a_folder_whose_name_leaves_no_room_for_a_socket_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(selection, "_temporary", lambda: str(deep))
    assert selection.place_for_socket("") == "/dev/shm"
