"""Gets, once, the programs in other languages that the interop tests run.

    python -m tests.interop.build            # gets what is not there yet; says in a line what it cannot get
    python -m tests.interop.build --or-skip  # the same, but then their tests are left out, visibly

They are in folders of the user's cache (`XDG_CACHE_HOME`), named by all that they are made of. Delete them at will. Versions are
pinned in `go/go.sum`, `node/package-lock.json` and `jars.txt`, with hashes.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jgo.maven import MavenContext

from tests.e2e import build
from tests.e2e.build import CannotBuild

_FOLDER = Path(__file__).parent
# What `make test-long` waits for, all in all, when nothing is there yet; it takes two minutes on two cores.
_SECONDS = 600.0


class _GoProgram(build.Program):
    @property
    def folder(self) -> Path:
        return _FOLDER / ("shop" if self.name == "shop" else "go")

    @property
    def problem(self) -> str:
        return ""


_GO = _GoProgram("client", "google.golang.org/grpc/interop/client")
_SHOP = _GoProgram("shop", ".")
_GRPCURL = _GoProgram("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl")


class Client(NamedTuple):
    """What is to be got: a name, where it is once it is there, and what gets it before a moment of `time.monotonic()`."""

    name: str
    path: Callable[[], Path]
    get: Callable[[float], object]


def _cached(name: str, commands: tuple[str, ...]) -> Path:
    """Returns the folder for what is made of the files in one of ours by these commands."""
    made_of = hashlib.sha256()
    for command in commands:
        if not shutil.which(command):
            raise CannotBuild(f"{command} is not there")
        made_of.update(run([command, "--version"]).encode())
    for file in sorted(path for path in (_FOLDER / name).iterdir() if path.is_file()):
        made_of.update(file.read_bytes())
    return build.cache() / f"interop-{name}-{made_of.hexdigest()[:16]}"


def run(command: list[str], *, folder: Path | None = None, deadline: float = math.inf) -> str:
    """Returns what a command prints. Raises CannotBuild if it fails, or takes longer than until a moment of `time.monotonic()`."""
    left = None if deadline == math.inf else max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=left)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`{' '.join(command[:2])}` takes too long here") from None
    if done.returncode:
        raise CannotBuild(f"`{' '.join(command[:2])}` fails: {build.last_line(done.stderr.strip() or done.stdout)}")
    return done.stdout


@functools.cache
def _node() -> Path:
    """Returns the folder with node_modules."""
    return _cached("node", ("node", "npm"))


def _get_node(deadline: float) -> None:
    def fill(new: Path) -> None:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(_FOLDER / "node" / name, new)
        run(["npm", "ci", "--silent"], folder=new, deadline=deadline)

    fill_once(_node(), fill)


@functools.cache
def _java() -> Path:
    """Returns the folder with the jars and the compiled suite."""
    return _cached("java", ("java", "javac"))


@functools.cache
def _mongodb() -> Path:
    """Returns the folder with the jars and the compiled server."""
    return _cached("mongodb", ("java", "javac"))


def _get_java(deadline: float) -> None:
    _compile(_java(), _FOLDER / "java", "Interop.java", deadline)


def _get_mongodb(deadline: float) -> None:
    _compile(_mongodb(), _FOLDER / "mongodb", "Server.java", deadline)


def _compile(target: Path, folder: Path, source: str, deadline: float) -> None:
    def fill(new: Path) -> None:
        pins = [line.split() for line in (folder / "jars.txt").read_text().splitlines() if not line.startswith("#")]
        maven = MavenContext(repo_cache=new / "maven")
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda pin: _get_jar(maven, *pin, new), pins))
        shutil.rmtree(new / "maven")
        run(["javac", "-cp", "*", "-d", ".", str(folder / source)], folder=new, deadline=deadline)

    fill_once(target, fill)


def _get_jar(maven: MavenContext, coordinates: str, sha256: str, target: Path) -> None:
    group, name, version = coordinates.split(":")
    try:
        jar = maven.project(group, name).at_version(version).artifact().resolve()
    except (RuntimeError, OSError) as error:
        raise CannotBuild(f"{coordinates} cannot be had: {build.last_line(str(error))}") from None
    found = hashlib.sha256(jar.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{coordinates} has the hash {found}, and not that of jars.txt")
    shutil.move(jar, target)


def fill_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_suffix(f".{os.getpid()}")
            new.mkdir()
            new.chmod(0o755)  # for apt's own user, which downloads into some
            try:
                fill(new)
                new.rename(folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)


GO = Client("grpc-go's interop client", lambda: build.path(_GO), lambda deadline: build.build(_GO, deadline=deadline))
SHOP = Client("a shop in Go", lambda: build.path(_SHOP), lambda deadline: build.build(_SHOP, deadline=deadline))
GRPCURL = Client("grpcurl", lambda: build.path(_GRPCURL), lambda deadline: build.build(_GRPCURL, deadline=deadline))
NODE = Client("Node.js", _node, _get_node)
JAVA = Client("grpc-java's interop suite", _java, _get_java)
MONGODB = Client("a server that speaks MongoDB's protocol", _mongodb, _get_mongodb)


def get_all(module: str, clients: Sequence[Client], *, seconds: float) -> int:
    """Runs the command line of a module that gets clients; returns its exit code. With --or-skip, so many seconds are enough."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--or-skip", action="store_true", help="succeed also where they cannot be had")
    skips = parser.parse_args().or_skip
    deadline = time.monotonic() + seconds if skips else math.inf
    failed = False
    for client in clients:
        try:
            client.get(deadline)
        except CannotBuild as error:
            failed = True
            print(f"NOT RUN: the tests with {client.name}: {error}", file=sys.stderr)
    return int(failed and not skips)


if __name__ == "__main__":
    sys.exit(get_all("tests.interop.build", (NODE, JAVA, MONGODB, GO, SHOP, GRPCURL), seconds=_SECONDS))
