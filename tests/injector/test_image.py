"""The image, as far as it is decided without a tool that builds images; `make image-test` runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.injector.manifests import K8S

FOLDER = K8S / "image"
DOCKERFILE = FOLDER / "Dockerfile"
ROOT = K8S.parent
# What uv says when there is neither a network nor a cache.
_NOT_OURS = ("error sending request", "Failed to fetch", "dns error", "HTTP status", "network was disabled")
_LOCKED = re.compile(
    r"(amd64|arm64) debian(?:-security)? pool/\S+/([a-z0-9.+-]+)_[^_\s]+_(?:all|amd64|arm64)\.deb [0-9a-f]{64}"
)


def instructions() -> list[tuple[str, str]]:
    """Returns the instructions with their arguments, comments left out and lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def test_it_is_as_linters_want_it() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_and_downloads_nothing_and_is_no_root() -> None:
    steps = instructions()
    assert not [rest for word, rest in steps if word in {"RUN", "ADD"}], "what they do depends on the day and the tool"
    user, group = next(rest for word, rest in steps if word == "USER").split(":")
    assert int(user) > 10_000
    assert int(group) > 10_000
    assert ("ENTRYPOINT", '["cache-sidecar"]') in steps
    assert ("CMD", '["serve"]') in steps


def test_debians_packages_are_pinned_for_both_platforms() -> None:
    found: dict[str, set[str]] = {"amd64": set(), "arm64": set()}
    for line in (FOLDER / "base.txt").read_text().splitlines():
        locked = _LOCKED.fullmatch(line)
        assert locked, line
        found[locked[1]].add(locked[2])
    assert found["amd64"] == found["arm64"]
    assert {"libc6", "python3.13-minimal"} <= found["amd64"]
    assert not found["amd64"] & {"apt", "bash", "coreutils", "dash", "dpkg", "perl-base"}, (
        "nothing to work with for an intruder"
    )


def _program(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs one of the image's programs where only the folder's programs are there."""
    command = [sys.executable, FOLDER / name, *arguments]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, check=False)


def _write_tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


_ADVICE = "install one of docker, podman or buildah, such as by 'apt-get install podman buildah' on Debian\n"


def test_without_a_tool_it_says_so_and_fails(tmp_path: Path) -> None:
    done = _program("build.py", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"NOT BUILT: docker, podman, buildah: none is there: {_ADVICE}")
    done = _program("tools.py", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"NOT RUN: docker, podman: none is there: {_ADVICE}")


def test_a_tool_that_does_not_work_is_as_good_as_none(tmp_path: Path) -> None:
    _write_tool(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    done = _program("build.py", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"NOT BUILT: docker: Cannot connect to the Docker daemon: {_ADVICE}")
    _write_tool(tmp_path, "podman", "exit 0")
    assert _program("tools.py", tmp_path).returncode == 0
    wheels = tmp_path / "wheels"
    done = _program("build.py", tmp_path, "--wheels", str(wheels), "--base", "python")
    assert done.returncode == 1
    assert done.stderr.startswith(f"NOT BUILT: {wheels} has no wheel of version "), "it is podman that builds"


def test_all_dependencies_have_wheels_for_arm64(tmp_path: Path) -> None:
    """Those for x86-64 are installed here."""
    uv = Path(sys.executable).with_name("uv")
    options = ["--dry-run", "--only-binary=:all:", "--require-hashes", "--python-version=3.13", f"--target={tmp_path}"]
    command = [uv, "pip", "install", *options, "--python-platform=aarch64-manylinux_2_40", "-r", ROOT / ".requirements.lock"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode and any(reason in done.stderr for reason in _NOT_OURS):
        pytest.skip(f"wheels cannot be looked up: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert " + grpcio==" in done.stderr
