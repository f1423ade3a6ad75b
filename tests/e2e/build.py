"""Builds, once, what the end-to-end tests run: Kubernetes without its nodes, kube-score and helm, from Go modules.

    python -m tests.e2e.build            # builds what is not there yet; says in a line why it cannot
    python -m tests.e2e.build --or-skip  # the same, but then the tests are left out, visibly

The programs are in a folder of the user's cache (`XDG_CACHE_HOME`), named by all that they are made of. Delete it at will.
"""

import argparse
import fcntl
import functools
import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from cache_sidecar.core.errors import InputError

KUBERNETES = "1.37.2"
_FOLDER = Path(__file__).parent
_VERSION = "k8s.io/component-base/version"
# What `make test-long` waits for a first build, which takes about 8 minutes on two cores. The next one goes on from there.
_SECONDS = 900.0


class Program(NamedTuple):
    """A Go program, and the folder with its go.mod."""

    name: str
    package: str
    variables: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return _FOLDER / self.name

    @property
    def problem(self) -> str:
        """Why it is of no use on this machine; empty when it is of use."""
        return "" if sys.platform == "linux" else "they need Linux, where every address 127.x.y.z can be listened on"


_MAJOR, _MINOR, _ = KUBERNETES.split(".")

KUBE = Program(
    "kube",
    ".",
    (f"{_VERSION}.gitVersion=v{KUBERNETES}", f"{_VERSION}.gitMajor={_MAJOR}", f"{_VERSION}.gitMinor={_MINOR}"),
)
SCORE = Program("score", "github.com/zegl/kube-score/cmd/kube-score")
# As helm's own Makefile does: it takes itself for one of an old Kubernetes otherwise.
HELM = Program(
    "helm",
    "helm.sh/helm/v3/cmd/helm",
    tuple(
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
        for package in ("chartutil", "lint/rules")
        for part, number in (("Major", _MAJOR), ("Minor", _MINOR))
    ),
)


class CannotBuild(InputError):
    """Go, or the modules, cannot be had here: no fault of the project's."""


@functools.cache
def path(program: Program) -> Path:
    """Returns where a program is, or will be. Raises CannotBuild without Go."""
    made_of = hashlib.sha256(repr((_go_version(program), program)).encode())
    for file in sorted(program.folder.iterdir()):
        made_of.update(file.read_bytes())
    return cache() / f"{program.name}-{made_of.hexdigest()[:16]}" / program.name


def cache() -> Path:
    """Returns our folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cache-sidecar"


def build(program: Program, *, deadline: float = math.inf) -> Path:
    """Returns where a program is, once it is there. Raises CannotBuild, or CalledProcessError when it does not compile.

    The deadline is one of `time.monotonic()`.
    """
    found = path(program)
    if found.exists():
        return found
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotBuild(f"cannot make {found.parent}: {error.strerror}") from None
    with (found.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            print(f"building {program.name} once, which takes minutes, into {found.parent}", flush=True)
            _download(program, deadline)
            new = found.with_suffix(".new")
            _compile(program, new, deadline)
            new.rename(found)
    return found


def _go_version(program: Program) -> str:
    if program.problem:
        raise CannotBuild(program.problem)
    if not shutil.which("go"):
        raise CannotBuild("Go is not there")
    # In the folder, as its go.mod may ask for a newer Go than the one that is installed.
    done = _go(program, "env", "GOVERSION")
    if done.returncode:
        raise CannotBuild(last_line(done.stderr))
    return done.stdout.strip()


def _download(program: Program, deadline: float) -> None:
    """Brings the modules whose packages are needed, which are not all that go.mod names."""
    done = _go(program, "list", "-deps", program.package, deadline=deadline)
    if done.returncode:
        raise CannotBuild(f"the Go modules cannot be had: {last_line(done.stderr)}")


def _compile(program: Program, target: Path, deadline: float) -> None:
    variables = " ".join(f"-X {variable}" for variable in program.variables)
    # No symbols for debuggers: a third of the time and of the size.
    options = ["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags", f"-s -w {variables}"]
    done = _go(program, "build", *options, "-o", str(target), program.package, deadline=deadline)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()


def _go(program: Program, *arguments: str, deadline: float = math.inf) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    command = ["go", *arguments]
    left = None if deadline == math.inf else max(1.0, deadline - time.monotonic())
    try:
        return subprocess.run(
            command, cwd=program.folder, env=environment, capture_output=True, text=True, check=False, timeout=left
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`go {arguments[0]}` takes too long here") from None


def last_line(text: str) -> str:
    """Returns what a failed command said in the end."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.build")
    parser.add_argument("--or-skip", action="store_true", help="succeed also where they cannot be built")
    skips = parser.parse_args().or_skip
    deadline = time.monotonic() + _SECONDS if skips else math.inf
    try:
        for program in (KUBE, SCORE, HELM):
            build(program, deadline=deadline)
    except CannotBuild as error:
        print(f"NOT RUN: the tests on a real Kubernetes API server: {error}" if skips else error, file=sys.stderr)
        return 0 if skips else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
