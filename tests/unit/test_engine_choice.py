"""Which engine runs, and what is said when it is not the one that was asked for."""

import sys
from pathlib import Path

import pytest

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server.engines import selection
from cache_sidecar.server.engines.selection import explain, select
from tests.support import engine_params, inside
from tests.support.authority import Authority, listen
from tests.support.engine_params import needs_native


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_sidecar._native", None)


@needs_native
def test_the_native_engine_runs_where_it_is_installed() -> None:
    assert select("auto") == ("native", "installed")
    assert select("native") == ("native", "requested")
    assert explain("auto") == "native (installed)"


def test_grpc_aio_runs_where_it_is_asked_for() -> None:
    assert select("aio") == ("aio", "requested")


def test_grpc_aio_runs_where_the_other_is_missing(without_native: None) -> None:
    assert select("auto") == ("aio", "the native engine is not installed")


def test_one_that_was_asked_for_and_is_missing_is_refused_with_what_to_do(without_native: None) -> None:
    with pytest.raises(
        SettingsError, match=r"^engine: the native engine is not installed: install Rust .* or set engine to auto$"
    ):
        select("native")
    assert explain("native").startswith("the native engine is not installed: install Rust")


@needs_native
def test_the_private_socket_goes_where_it_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selection, inside.TEMPORARY, lambda: "")
    monkeypatch.setattr(selection, inside.SHARED_MEMORY, str(tmp_path / "missing"))
    beside = Path("/tmp") if len(str(tmp_path)) > 60 else tmp_path
    assert selection.place_for_socket(str(beside / "listen.sock")) == str(beside)
    assert select("auto") == ("aio", "the native engine finds no writable folder for its private socket")
    with pytest.raises(SettingsError, match="make /tmp writable"):
        select("native")


def test_a_folder_whose_name_leaves_no_room_for_a_socket_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(selection, inside.TEMPORARY, lambda: str(deep))
    assert selection.place_for_socket("") == "/dev/shm"


@pytest.mark.parametrize(("with_ca", "age", "is_said"), [(True, 0, True), (True, 60, False), (False, 0, False)])
def test_grpc_aio_says_that_it_cannot_end_connections_with_their_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_ca: bool, age: float, is_said: bool
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("cache_sidecar.server.engines.aio.telemetry.log.warning", lines.append)
    authority = Authority()
    files = listen(tmp_path, authority.server(), authority.cert if with_ca else b"")
    engine_params.create("aio", max_connection_age=age, **files)
    assert any("set max_connection_age" in line for line in lines) == is_said
