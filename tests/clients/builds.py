"""Builds, once, the client libraries in TypeScript and Java, with their tests and programs.

    python -m tests.clients.builds            # builds what is not there yet; says in a line what it cannot build
    python -m tests.clients.builds --or-skip  # the same, but then their tests are left out, visibly

They are in folders of the user's cache (`XDG_CACHE_HOME`), named by all that they are made of. Delete them at will.
"""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.e2e import build
from tests.e2e.build import CannotBuild
from tests.interop.build import Client, fill_once, get_all, run

PROJECT = Path(__file__).parents[2]
CLIENTS = PROJECT / "clients"
# What `make test-long` waits for, all in all, when nothing is there yet; it takes two minutes on two cores.
_SECONDS = 900.0
_NPM_FILES = ("package.json", "package-lock.json", ".npmrc")
# A goal of Maven that writes the class path of what was compiled.
CLASSPATH = (
    "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath",
    "-Dmdep.outputFile=target/classpath.txt",
)
_NOT_SOURCE = shutil.ignore_patterns("node_modules", "dist", "build", "target", "LICENSE")


def cached(name: str, commands: tuple[str, ...], files: Iterable[Path]) -> Path:
    """Returns the folder for what these commands make of the files."""
    made_of = hashlib.sha256()
    for command in commands:
        if not shutil.which(command):
            raise CannotBuild(f"{command} is not there")
        made_of.update(run([command, "--version"]).encode())
    for file in sorted(files):
        made_of.update(f"{file.relative_to(PROJECT)}\0".encode())
        made_of.update(file.read_bytes())
    return build.cache() / f"client-{name}-{made_of.hexdigest()[:16]}"


def _sources(folder: Path) -> list[Path]:
    ignored = {"node_modules", "dist", "build", "target"}
    return [path for path in folder.rglob("*") if path.is_file() and ignored.isdisjoint(path.relative_to(folder).parts)]


def _modules() -> Path:
    """Returns the folder with node_modules."""
    return cached("node-modules", ("node", "npm"), [CLIENTS / "typescript" / name for name in _NPM_FILES])


def _typescript() -> Path:
    """Returns the folder with the package, built, and its tests and programs."""
    return cached("typescript", ("node", "npm"), _sources(CLIENTS / "typescript"))


def _get_typescript(deadline: float) -> None:
    def install(new: Path) -> None:
        for name in _NPM_FILES:
            shutil.copy(CLIENTS / "typescript" / name, new)
        run(["npm", "ci", "--silent"], folder=new, deadline=deadline)

    def compile_package(new: Path) -> None:
        shutil.copytree(CLIENTS / "typescript", new, ignore=_NOT_SOURCE, dirs_exist_ok=True)
        shutil.copy(PROJECT / "LICENSE", new)
        (new / "node_modules").symlink_to(_modules() / "node_modules")
        run(["npm", "run", "--silent", "build"], folder=new, deadline=deadline)
        run(["npx", "tsc", "-p", "tsconfig.test.json"], folder=new, deadline=deadline)

    fill_once(_modules(), install)
    fill_once(_typescript(), compile_package)


def maven(*arguments: str, repository: Path | None = None) -> list[str]:
    """Returns a command of Maven, with a repository of its own: what is installed there, the user's other projects do not see."""
    return ["mvn", "-q", "-B", "-Dstyle.color=never", f"-Dmaven.repo.local={repository or build.cache() / 'maven'}", *arguments]


def _java() -> Path:
    """Returns the folder with the compiled library, tests and programs, and `target/classpath.txt`."""
    sources = _sources(CLIENTS / "java") + [path for path in (CLIENTS / "protos").rglob("*.proto") if path.is_file()]
    return cached("java", ("java", "mvn"), sources)


def _get_java(deadline: float) -> None:
    def compile_library(new: Path) -> None:
        shutil.copytree(CLIENTS / "java", new / "java", ignore=_NOT_SOURCE)
        shutil.copytree(CLIENTS / "protos", new / "protos")
        run(maven("test-compile", *CLASSPATH), folder=new / "java", deadline=deadline)

    fill_once(_java(), compile_library)


def installed_java(library: Path) -> Path:
    """Returns a copy of the compiled library's folder, whose artifacts are in Maven's repository, after their tests have passed.

    They are installed once: another process of the tests may be running with these very files.
    """
    marker = build.cache() / "maven/installed"
    installed = library.with_name(f"{library.name}-installed")
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text() != library.name:
            shutil.rmtree(installed, ignore_errors=True)
            shutil.copytree(library, installed, symlinks=True)
            run(maven("install"), folder=installed / "java")
            marker.write_text(library.name)
    return installed / "java"


def compile_project(folder: Path) -> str:
    """Compiles a Maven project; returns its class path."""
    run(maven("compile", *CLASSPATH), folder=folder)
    return f"{folder / 'target/classes'}:{(folder / 'target/classpath.txt').read_text().strip()}"


def java_command(folder: Path, program: str) -> list[str]:
    """Returns the command that runs a class of the library's tests."""
    client = folder / "java/client"
    jars = (client / "target/classpath.txt").read_text().strip()
    return ["java", "-cp", f"{client / 'target/test-classes'}:{client / 'target/classes'}:{jars}", program]


TYPESCRIPT = Client("the client in TypeScript", _typescript, _get_typescript)
JAVA = Client("the client in Java", _java, _get_java)


if __name__ == "__main__":
    sys.exit(get_all("tests.clients.builds", (TYPESCRIPT, JAVA), seconds=_SECONDS))
