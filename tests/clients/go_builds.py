"""Builds, once, the Go client's programs and tests.

    python -m tests.clients.go_builds            # builds what is not there yet; says in a line why it cannot
    python -m tests.clients.go_builds --or-skip  # the same, but then their tests are left out, visibly

They are in a folder of the user's cache (`XDG_CACHE_HOME`), named by all that they are made of. Delete it at will.
"""

import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.build import CannotBuild, cache, last_line
from tests.interop.build import Client, get_all

MODULE = Path(__file__).parents[2] / "clients/go"
# What `make test-long` waits for when nothing is there yet; it takes two minutes on two cores.
_SECONDS = 600.0
PROGRAMS = ("./cmd/conformance", "./cmd/restart", "./cmd/rotation", "./examples/sessions")
TESTED = ("cachesidecar", "httpsession")
# No workspace around it, and no change of go.mod.
ENVIRONMENT = {"GOWORK": "off", "GOFLAGS": "-mod=readonly"}


class GoFailed(Exception):
    """A command failed that should work wherever Go is: the code does not compile."""


def go(*arguments: str, folder: Path = MODULE, deadline: float = math.inf, **environment: str) -> str:
    """Runs Go; returns what it said. Raises CannotBuild without Go, or after a moment of `time.monotonic()`."""
    if not shutil.which("go"):
        raise CannotBuild("Go is not there")
    left = None if deadline == math.inf else max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(
            ["go", *arguments],
            cwd=folder,
            env=os.environ | ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`go {arguments[0]}` takes too long here") from None
    if done.returncode:
        raise GoFailed(f"`go {' '.join(arguments)}` fails:\n{done.stderr}")
    return done.stdout


def _path() -> Path:
    """Returns the folder with the programs, and with the tests of each package as PACKAGE.test."""
    made_of = hashlib.sha256(go("env", "GOVERSION").encode())
    for file in sorted(path for path in MODULE.rglob("*") if path.suffix == ".go" or path.name in {"go.mod", "go.sum"}):
        made_of.update(f"{file.relative_to(MODULE)}\0".encode())
        made_of.update(file.read_bytes())
    return cache() / f"client-go-{made_of.hexdigest()[:16]}"


def _get(deadline: float) -> None:
    target = _path()
    if target.exists():
        return
    try:
        go("list", "-deps", "-test", "./...", deadline=deadline)
    except GoFailed as error:
        raise CannotBuild(f"the Go modules cannot be had: {last_line(str(error))}") from None
    new = target.with_suffix(f".{os.getpid()}")
    new.mkdir(parents=True)
    try:
        go("build", "-o", f"{new}{os.sep}", *PROGRAMS, deadline=deadline)
        for name in TESTED:
            # With the race detector, which needs a C compiler, as the project does anyway.
            go("test", "-c", "-race", "-o", str(new / f"{name}.test"), f"./{name}", deadline=deadline, CGO_ENABLED="1")
        if not target.exists():
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


GO = Client("the Go client", _path, _get)


if __name__ == "__main__":
    sys.exit(get_all("tests.clients.go_builds", (GO,), seconds=_SECONDS))
