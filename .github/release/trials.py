"""Installs what was built into clean environments, and makes the first call of the README there."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from build import BIN, GO_MODULE, Missing, Release, need
from tests.clients import builds, examples
from tests.support.free_ports import later_ports

_SECONDS = 180.0
# Further ones would be in the category that the clients' first programs list.
_PRODUCTS = 1


def _environment(release: Release, name: str, *packages: object) -> Path:
    """Returns the Python of a new environment with these packages and what they need.

    A source distribution is installed without the native engine, whose wheel was compiled of it already.
    """
    folder = release.work / "environments" / name
    shutil.rmtree(folder, ignore_errors=True)
    release.run(BIN / "uv", "venv", "-q", "--python", sys.executable, folder)
    release.run(
        BIN / "uv", "pip", "install", "-q", "--python", folder / "bin/python", *packages, folder=release.work, NATIVE_ENGINE="0"
    )
    return folder / "bin/python"


@contextlib.contextmanager
def _stack(release: Release, python: Path, engine: str) -> Iterator[str]:
    """Runs `cache-sidecar dev` of an environment; yields the address of its sidecar."""
    state = release.work / "dev"
    shutil.rmtree(state, ignore_errors=True)
    (port,) = later_ports(1)
    command = [python.with_name("cache-sidecar"), "dev", "--state", state, "--products", str(_PRODUCTS)]
    command += ["--engine", engine, "--listen", f"127.0.0.1:{port}"]
    log = (release.work / "dev.log").open("w+")
    # A session of its own: Ctrl-C ends it by the `finally` below.
    program = subprocess.Popen(command, cwd=release.work, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + _SECONDS
        while not (state / "dev.json").exists():
            if program.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"'cache-sidecar dev' does not start:\n{log.read()[-2000:]}")
            time.sleep(0.2)
        yield json.loads((state / "dev.json").read_text())["sidecars"][0]["grpc"]
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(60)
        log.close()


def _first_call(release: Release, address: str, python: Path) -> None:
    """Runs the program on the first page of the README."""
    program = release.work / "first.py"
    program.write_text(examples.blocks(release.source / "README.md", "python")[0])
    said = release.run(python, program, folder=release.work, CACHE_SIDECAR_ADDRESS=address)
    if not re.match(r"\S.* \S+ EUR \S", said):
        raise SystemExit(f"the README's first call prints {said!r}")


def try_server(release: Release) -> Iterator[str]:
    """Each form of the server, called by the Python client; the last one by all clients. Yields what was tried."""
    (client,) = release.dist.glob("cache_sidecar_client-*.whl")
    caller = _environment(release, "client", client)
    (any_wheel,) = release.dist.glob("cache_sidecar-*-py3-none-any.whl")
    (sdist,) = release.dist.glob("cache_sidecar-*.tar.gz")
    machine = os.uname().machine
    native = [one for one in release.dist.glob("cache_sidecar-*-abi3-*.whl") if machine in one.name]
    forms = [("sdist", sdist, "aio"), ("any", any_wheel, "aio"), *(("native", wheel, "native") for wheel in native)]
    for name, file, engine in forms:
        python = _environment(release, name, f"cache-sidecar[dev] @ {file.as_uri()}")
        with _stack(release, python, engine) as address:
            _first_call(release, address, caller)
            yield f"{file.name}, engine {engine}, called by {client.name}"
            if file == forms[-1][1]:
                yield from _try_clients(release, address)


def _try_clients(release: Release, address: str) -> Iterator[str]:
    """Yields the other clients' files that were tried, or why one was not."""
    clients = {"Python sdist": _try_client_sdist, "npm": _try_npm, "Go": _try_go, "Maven": _try_java}
    for name, attempt in clients.items():
        asyncio.run(examples.forget_first(address))
        try:
            yield attempt(release, address)
        except Missing as reason:
            yield f"SKIPPED {name}: {reason}"


def _try_client_sdist(release: Release, address: str) -> str:
    (sdist,) = release.dist.glob("cache_sidecar_client-*.tar.gz")
    _first_call(release, address, _environment(release, "client-sdist", sdist))
    return sdist.name


def _compare(name: str, said: str, expected: str) -> str:
    if re.sub("from (?:l[12]|L[12])", lambda found: "from STORE" if found[0][5] == "L" else "from store", said) != expected:
        raise SystemExit(f"the first program with {name} prints {said!r}, and not {expected!r}")
    return name


def _try_npm(release: Release, address: str) -> str:
    need("node", "npm")
    archives = sorted(release.dist.glob("cache-sidecar-client-*.tgz"))
    if not archives:
        raise Missing("it was not built")
    folder = _new(release, "npm")
    (folder / "package.json").write_text('{"name": "app", "version": "1.0.0", "type": "module", "private": true}')
    release.run("npm", "install", "--silent", "--no-audit", "--no-fund", archives[0], folder=folder)
    page = release.source / "clients/typescript/README.md"
    (folder / "first.js").write_text(examples.blocks(page, "js")[0])
    said = release.run("node", "first.js", folder=folder, CACHE_SIDECAR_ADDRESS=address)
    return _compare(archives[0].name, said, examples.blocks(page, "")[0])


def _new(release: Release, name: str) -> Path:
    folder = release.work / "environments" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _try_go(release: Release, address: str) -> str:
    need("go")
    (archive,) = release.dist.glob("cache-sidecar-go-*.zip")
    folder, version = _new(release, "go"), f"v{release.version}"
    # As a proxy serves it. Nothing is written into the user's modules: Go would keep this one for the one that is published.
    served = folder / "proxy" / GO_MODULE / "@v"
    served.mkdir(parents=True)
    shutil.copy(archive, served / f"{version}.zip")
    (served / f"{version}.mod").write_bytes(zipfile.ZipFile(archive).read(f"{GO_MODULE}@{version}/go.mod"))
    (served / f"{version}.info").write_text(json.dumps({"Version": version}))
    (served / "list").write_text(f"{version}\n")
    others = release.run("go", "env", "GOPROXY").strip()
    environment = {
        "GOPROXY": f"{(folder / 'proxy').as_uri()},{others}",
        "GONOSUMDB": GO_MODULE,
        "GOFLAGS": "-mod=mod -modcacherw",
        "GOMODCACHE": str(folder / "modules"),
        "GOWORK": "off",
    }
    page = release.source / "clients/go/README.md"
    app = folder / "app"
    app.mkdir()
    (app / "main.go").write_text(examples.blocks(page, "go")[0])
    release.run("go", "mod", "init", "shop", folder=app, **environment)
    release.run("go", "get", f"{GO_MODULE}@{version}", folder=app, **environment)
    release.run("go", "build", "-o", "shop", ".", folder=app, **environment)
    said = release.run(app / "shop", folder=app, CACHE_SIDECAR_ADDRESS=address)
    return _compare(archive.name, said, examples.blocks(page, "text")[0])


def _try_java(release: Release, address: str) -> str:
    need("java", "mvn")
    archives = sorted(release.dist.glob("cache-sidecar-maven-*.zip"))
    if not archives:
        raise Missing("they were not built")
    folder = _new(release, "java")
    with zipfile.ZipFile(archives[0]) as archive:
        archive.extractall(folder / "repository")
    page = release.source / "clients/java/README.md"
    examples.write_first_java(folder / "app", page, repository=(folder / "repository").as_uri())
    # What others publish may be there already; ours may not.
    local = folder / "local"
    others = builds.build.cache() / "maven"
    shutil.copytree(others, local, ignore=shutil.ignore_patterns("cachesidecar"), copy_function=os.link)
    release.run(*builds.maven("compile", *builds.CLASSPATH, repository=local), folder=folder / "app")
    classes = f"{folder / 'app/target/classes'}:{(folder / 'app/target/classpath.txt').read_text().strip()}"
    if str(local / "io/cachesidecar/cache-sidecar-client") not in classes:
        raise SystemExit(f"Maven does not use {archives[0].name}: {classes}")
    said = release.run("java", "-cp", classes, "First", folder=folder, CACHE_SIDECAR_ADDRESS=address)
    return _compare(archives[0].name, said, examples.blocks(page, "")[0])
