"""The version is written in `cache_sidecar/__init__.py`; what cannot read it there says the same."""

import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cache_sidecar_client
import pytest

from cache_sidecar import __version__
from tests.support import release

ROOT = Path(__file__).parents[2]
versions: Any = release.load("versions")


def test_the_packages_take_it_from_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cache_sidecar.__version__"}
    assert "version" not in project["project"]
    assert version("cache-sidecar") == versions.read_version() == __version__, "`make setup` installs it anew"
    assert cache_sidecar_client.__version__ == version("cache-sidecar-client") == __version__


def test_every_other_place_has_it() -> None:
    assert versions.find_others() == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the files that have the version."""
    for file in {ROOT / versions.SOURCE, *(found.file for found in versions.find_all())}:
        new = tmp_path / file.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
    return tmp_path


def test_a_place_that_disagrees_is_found_wherever_it_is(copy: Path) -> None:
    for found in versions.find_all(copy):
        text = found.file.read_text()
        seven = found.separator.join("777")
        found.file.write_text(f"{text[: found.start]}{seven}{text[found.start + len(found.version) :]}")
        name = found.file.relative_to(copy)
        assert versions.find_others(copy) == [
            f"{name} has 7.7.7, and cache_sidecar/__init__.py has {__version__}: run 'make version'"
        ]
        found.file.write_text(text)


def test_it_is_written_everywhere(copy: Path) -> None:
    versions.write(copy, "10.20.30")
    assert versions.read_version(copy) == "10.20.30"
    assert {found.version for found in versions.find_all(copy)} == {"10.20.30"}


def test_a_place_without_one_is_no_agreement(copy: Path) -> None:
    (copy / "clients/typescript/package.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"package\.json has no version"):
        versions.find_others(copy)


@pytest.mark.parametrize("wrong", ["0.2", "v0.2.0", "0.2.0rc1", "0.2.0.1"])
def test_only_a_form_that_all_of_them_read_is_a_version(wrong: str, copy: Path) -> None:
    with pytest.raises(SystemExit, match="no version of the form"):
        versions.write(copy, wrong)
