"""The wheels that `make wheel` builds: one for any platform, one with the native engine."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cache_sidecar import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cache_sidecar"
DATA = {".py", ".pyi", ".lua", ".sql", ".toml", ".typed", ".html", ".css", ".js"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the tags of Python and ABI."""
    folder = tmp_path_factory.mktemp("wheels")
    done = subprocess.run(["make", "-C", ROOT, "wheel", f"DIST={folder}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {"-".join(path.stem.split("-")[2:4]): path for path in folder.glob("*.whl")}


def test_one_is_for_any_platform_and_has_all_but_the_native_engine(wheels: dict[str, Path]) -> None:
    wheel = wheels["py3-none"]
    assert wheel.name == f"cache_sidecar-{__version__}-py3-none-any.whl"
    files = {PACKAGE / name for name in PACKAGE.rglob("*") if name.suffix in DATA and "native" not in name.parts}
    assert _contents(wheel) == {f"cache_sidecar/{path.relative_to(PACKAGE)}" for path in files}
    assert _says_its_engine(wheel) == "aio (the native engine is not installed)"


@pytest.mark.skipif(not shutil.which("cargo"), reason="the wheel with the native engine needs cargo")
@pytest.mark.timeout(900)  # two cores may take minutes to compile it
def test_the_other_has_the_native_engine_as_well(wheels: dict[str, Path]) -> None:
    wheel = wheels["cp311-abi3"]
    assert not wheel.stem.endswith("-linux_x86_64"), "it does not say which libc it needs"
    assert _contents(wheel) - _contents(wheels["py3-none"]) == {"cache_sidecar/_native.abi3.so"}
    assert _says_its_engine(wheel) == "native (installed)"


def _contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("cache_sidecar/") and name[-1] != "/"}


def _says_its_engine(wheel: Path) -> str:
    """Returns what the command says when it comes from a wheel, beside the packages of this environment."""
    installed = wheel.with_suffix("")
    zipfile.ZipFile(wheel).extractall(installed)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{packages}"}
    command = [sys.executable, "-S", "-m", "cache_sidecar", "config"]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.partition("Here: ")[2].partition(".\n")[0]
