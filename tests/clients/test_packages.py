"""The Python package in clean environments: with the lowest and the highest versions of what it needs, and with frameworks."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.clients.conftest import Place
from tests.clients.expectations import problems
from tests.clients.programs import PROJECT
from tests.clients.test_conformance import CASES, cases

CLIENT = PROJECT / "clients/python"
UV = Path(sys.executable).parent / "uv"
FRAMEWORKS = Path(__file__).parent / "frameworks"
pytestmark = pytest.mark.timeout(400)
Install = Callable[..., Path]


@pytest.fixture(scope="package")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built."""
    out = tmp_path_factory.mktemp("wheel")
    # From a copy: a build writes into its folder.
    command = [
        UV,
        "build",
        "-q",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "-o",
        out,
        _copy(out / "source"),
    ]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    return built


def _copy(target: Path) -> Path:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=CLIENT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in names.stdout.split():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((CLIENT / name).read_bytes())
    return target


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Install:
    """Returns the Python of a clean environment with the package; skips the test where packages cannot be had."""

    def installed(*options: str) -> Path:
        folder = tmp_path / "venv"
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder], check=True)
        python = folder / "bin/python"
        command = [UV, "pip", "install", "-q", "--python", python, "--only-binary", ":all:", wheel, *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"packages cannot be installed: {done.stderr.strip()[-300:]}")
        return python

    return installed


@pytest.mark.parametrize(
    ("options", "majors"),
    [(("--resolution", "lowest"), {"grpcio": "1.63.2", "protobuf": "5.26.1"}), ((), {}), (("protobuf<7",), {"protobuf": "6"})],
    ids=["lowest", "highest", "protobuf-6"],
)
async def test_it_works_with_all_versions_that_it_allows(
    install: Install, options: tuple[str, ...], majors: dict[str, str], places: dict[str, Place], tmp_path: Path
) -> None:
    python = install(*options)
    versions = _versions(python)
    for name, major in majors.items():
        assert versions[name].startswith(major)
    assert versions.keys() <= {"cache-sidecar-client", "grpcio", "protobuf", "typing-extensions"}
    run = uuid4().hex[:8]
    environment = os.environ | places["tls"].environment | {"CONFORMANCE_CASES": str(CASES), "CONFORMANCE_RUN": run}
    said = await _run([python, "-W", "error", PROJECT / "tests/clients/python/conformance.py"], environment, tmp_path)
    lines = {line["name"]: line for line in map(json.loads, said.splitlines())}
    assert not [problem for case in cases() for problem in problems(case, lines[case["name"]], run)]


@pytest.mark.parametrize(
    ("framework", "packages"), [("flask", ["flask"]), ("fastapi", ["fastapi", "httpx"]), ("django", ["django"])], ids=str
)
async def test_an_example_runs_with_the_framework(
    install: Install, framework: str, packages: list[str], places: dict[str, Place], tmp_path: Path
) -> None:
    python = install(*packages)
    environment = os.environ | {
        "CACHE_SIDECAR_ADDRESS": places["tcp"].environment["CONFORMANCE_ADDRESS"],
        "PYTHONPATH": str(CLIENT / "examples"),
        "RUN": uuid4().hex[:8],
    }
    assert "passed" in await _run([python, FRAMEWORKS / f"{framework}_checks.py"], environment, tmp_path)


def _versions(python: Path) -> dict[str, str]:
    """Returns the packages of an environment and their versions."""
    command = [UV, "pip", "list", "-q", "--format", "json", "--python", python]
    listed = subprocess.run(command, check=True, capture_output=True)
    return {row["name"]: row["version"] for row in json.loads(listed.stdout)}


async def _run(command: list[str | Path], environment: dict[str, str], folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment, cwd=folder
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(), 300.0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-3000:]
    return said.decode()
