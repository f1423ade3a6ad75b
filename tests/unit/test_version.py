"""The version is written in `cache_sidecar/__init__.py`; what cannot read it there says the same."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from cache_sidecar import __version__

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "cache_sidecar" / "native"


def test_the_package_takes_it_from_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cache_sidecar.__version__"}
    assert "version" not in project["project"]
    assert version("cache-sidecar") == __version__, "`make setup` installs it anew"


def test_it_is_the_crate_s() -> None:
    assert tomllib.loads((NATIVE / "Cargo.toml").read_text())["package"]["version"] == __version__


@pytest.mark.parametrize("lock", ["Cargo.lock", "fuzz/Cargo.lock"])
def test_the_locks_of_the_crate_have_it(lock: str) -> None:
    packages = tomllib.loads((NATIVE / lock).read_text())["package"]
    assert [package["version"] for package in packages if package["name"] == "cache-sidecar-native"] == [__version__]


def test_it_is_in_every_manifest_and_in_every_guide() -> None:
    files = [*(ROOT / "k8s").rglob("*"), *(ROOT / "cache_sidecar").rglob("*.md")]
    texts = [file.read_text() for file in files if file.is_file()]
    assert {found for text in texts for found in re.findall(r"\bcache-sidecar:(\d[\w.]*\w)", text)} == {__version__}
