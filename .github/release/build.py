"""Builds the files of a release, out of an export of a commit, so that nothing is in them that is not committed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import archives
import refusals

BIN = Path(sys.executable).parent
ARM = "aarch64-unknown-linux-gnu"
ARM_LINKER = "aarch64-linux-gnu-gcc"
GO_MODULE = "github.com/cache-sidecar/cache-sidecar/clients/go"


class Missing(Exception):
    """What cannot be built here, in a line that says what is needed for it."""


class Release(NamedTuple):
    """What is built, and where."""

    root: Path
    version: str
    commit: str
    epoch: int
    "The time of the commit: that of everything in the release."

    @property
    def dist(self) -> Path:
        """The folder for the files."""
        return self.root / "dist"

    @property
    def work(self) -> Path:
        """The folder for everything else."""
        return self.root / "build/release"

    @property
    def source(self) -> Path:
        """The export."""
        return self.work / "source"

    @property
    def environment(self) -> dict[str, str]:
        """With the time, and without the paths of this machine in what cargo compiles."""
        home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
        places = {home / "registry/src": "crates", self.work: "cache-sidecar"}
        flags = [f"--remap-path-prefix={path}={name}" for path, name in places.items()]
        return os.environ | {
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "CARGO_TARGET_DIR": str(self.work / "cargo"),
            "RUSTFLAGS": " ".join(flags),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: object, folder: Path | None = None, **environment: str) -> str:
        """Returns what a command prints. Raises SystemExit with the end of what it complains about if it fails."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=folder or self.source,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"'{' '.join(map(str, command))}' fails:\n{(done.stderr or done.stdout).strip()[-3000:]}")
        return done.stdout


def need(*programs: str) -> None:
    """Raises Missing if a program is not installed."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise Missing(f"{' and '.join(missing)} not installed")


def export(release: Release) -> None:
    """Writes the files of the commit, and empties the folder for those of the release."""
    for folder in (release.dist, release.source):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    archive = release.work / "source.tar"
    # Whatever the user's configuration of git says.
    refusals.git(release.root, "-c", "tar.umask=0022", "archive", "--output", str(archive), release.commit)
    release.run("tar", "-xf", archive)
    archive.unlink()


def _uv_build(release: Release, source: Path, kind: str, target: Path, **environment: str) -> Path:
    new = release.work / "new"
    shutil.rmtree(new, ignore_errors=True)
    command = [BIN / "uv", "build", "-q", f"--{kind}", "--no-build-isolation", "--python", sys.executable, "-o", new, source]
    release.run(*command, **environment)
    (built,) = new.glob("cache_sidecar*")
    target.mkdir(parents=True, exist_ok=True)
    return built.replace(target / built.name)


def _unpack(release: Release, sdist: Path) -> Path:
    """Returns the folder with what is in a source distribution."""
    folder = release.work / "unpacked"
    folder.mkdir(exist_ok=True)
    new = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(new, ignore_errors=True)
    release.run("tar", "-xf", sdist, "-C", folder)
    return new


def build_server(release: Release) -> Iterator[Path]:
    """The source distribution, and the wheel for any platform, built of it and nothing else."""
    sdist = _uv_build(release, release.source, "sdist", release.dist, NATIVE_ENGINE="0")
    archives.rewrite_tar(sdist, release.epoch)
    yield sdist
    unpacked = _unpack(release, sdist)
    wheel = _uv_build(release, unpacked, "wheel", release.dist, NATIVE_ENGINE="0")
    checked = _uv_build(release, release.source, "wheel", release.work / "checked", NATIVE_ENGINE="0")
    if wheel.read_bytes() != checked.read_bytes():
        raise SystemExit(f"{wheel.name} differs if it is built of the source distribution, which lacks something")
    checked.unlink()
    yield wheel


def build_native(release: Release) -> Iterator[Path]:
    """The wheel with the native engine for this platform, built of the source distribution."""
    need("cargo")
    yield _repair(release, _build_native(release, release.work / "wheels"))


def build_arm(release: Release) -> Iterator[Path]:
    """The same for Linux on ARM64."""
    needed = f"needs 'rustup target add {ARM}' and {ARM_LINKER} (Debian: gcc-aarch64-linux-gnu)"
    targets = release.run("rustup", "target", "list", "--installed") if shutil.which("rustup") else ""
    if ARM not in targets or shutil.which(ARM_LINKER) is None:
        raise Missing(needed)
    cross = {
        "CARGO_BUILD_TARGET": ARM,
        f"CARGO_TARGET_{ARM.upper().replace('-', '_')}_LINKER": ARM_LINKER,
        f"CC_{ARM.replace('-', '_')}": ARM_LINKER,  # for ring
        "PYO3_NO_PYTHON": "1",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }
    yield _repair(release, _build_native(release, release.work / "arm", **cross))


def _build_native(release: Release, target: Path, **environment: str) -> Path:
    (sdist,) = release.dist.glob("cache_sidecar-*.tar.gz")
    wheel = _uv_build(release, _unpack(release, sdist), "wheel", target, **environment)
    if "-abi3-" not in wheel.name:
        raise SystemExit(f"{wheel.name} is without the native engine: cargo is too old, or cannot download crates")
    return wheel


def _repair(release: Release, wheel: Path) -> Path:
    """Puts the oldest libc that a wheel works with into its name; returns the new one."""
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, release.dist))
    before = set(release.dist.iterdir())
    release.run("auditwheel", "repair", "-w", release.dist, wheel)
    (built,) = set(release.dist.iterdir()) - before
    return built


def build_python_client(release: Release) -> Iterator[Path]:
    """The Python client: the source distribution, and the wheel of it."""
    sdist = _uv_build(release, release.source / "clients/python", "sdist", release.dist)
    archives.rewrite_tar(sdist, release.epoch)
    yield sdist
    yield _uv_build(release, _unpack(release, sdist), "wheel", release.dist)


def build_npm_client(release: Release) -> Iterator[Path]:
    """The npm package."""
    need("node", "npm")
    folder = release.source / "clients/typescript"
    release.run("npm", "ci", "--silent", "--no-audit", "--no-fund", folder=folder)
    name = release.run("npm", "pack", "--silent", "--pack-destination", release.dist, folder=folder).split()[-1]
    archives.rewrite_tar(release.dist / name, release.epoch)
    yield release.dist / name


def build_go_client(release: Release) -> Iterator[Path]:
    """The Go module, as a proxy serves it."""
    folder = release.source / "clients/go"
    prefix = f"{GO_MODULE}@v{release.version}/"
    files = archives.read_folder(folder, prefix)
    # A folder with a go.mod is a module of its own.
    nested = tuple(f"{prefix}{file.parent.relative_to(folder)}/" for file in folder.glob("*/**/go.mod"))
    files = {name: one for name, one in files.items() if not name.startswith(nested)}
    files[f"{prefix}LICENSE"] = ((release.source / "LICENSE").read_bytes(), False)
    target = release.dist / f"cache-sidecar-go-{release.version}.zip"
    archives.write_zip(target, {name: (content, False) for name, (content, _) in files.items()}, release.epoch)
    yield target


def build_java_client(release: Release) -> Iterator[Path]:
    """The Maven artifacts, the BOM among them, laid out as a repository."""
    need("java", "mvn")
    from tests.clients import builds  # noqa: PLC0415 - needs the cache of the tests only here

    java = release.source / "clients/java"
    moment = f"-Dproject.build.outputTimestamp={release.epoch}"
    release.run(*builds.maven("package", "-DskipTests", moment), folder=java)
    files = {}
    for pom in (java / "pom.xml", *sorted(java.glob("*/pom.xml"))):
        text = pom.read_text()
        own = re.sub(r"<parent>.*?</parent>", "", text, flags=re.DOTALL)
        (artifact,) = re.findall(r"<artifactId>(cache-sidecar-[a-z-]+)</artifactId>", own)[:1]
        below = f"io/cachesidecar/{artifact}/{release.version}/{artifact}-{release.version}"
        files[f"{below}.pom"] = (pom.read_bytes(), False)
        for jar in pom.parent.glob(f"target/{artifact}-{release.version}.jar"):
            files[f"{below}.jar"] = (jar.read_bytes(), False)
    for name, (content, _) in list(files.items()):
        for kind in ("sha1", "sha256"):
            files[f"{name}.{kind}"] = (hashlib.new(kind, content, usedforsecurity=False).hexdigest().encode(), False)
    target = release.dist / f"cache-sidecar-maven-{release.version}.zip"
    archives.write_zip(target, files, release.epoch)
    if sum(name.endswith(".jar") for name in zipfile.ZipFile(target).namelist()) != 2:
        raise SystemExit(f"{target.name} has not the two jars of the client and of the starter")
    yield target


def build_chart(release: Release) -> Iterator[Path]:
    """The Helm chart, as `helm package` would, but with the commit's time."""
    files = archives.read_folder(release.source / "k8s/chart", "cache-sidecar/")
    ignored = ("cache-sidecar/source/", "cache-sidecar/.helmignore")
    target = release.dist / f"cache-sidecar-{release.version}.tgz"
    archives.write_tar(target, {name: one for name, one in files.items() if not name.startswith(ignored)}, release.epoch)
    yield target


def build_image(release: Release, platform: str) -> Iterator[Path]:
    """The image for a platform, an OCI archive, with the wheel that was built for it."""
    program = release.root / "k8s/image/build.py"
    before = set(release.dist.iterdir())
    command = [sys.executable, program, "--platform", platform, "--wheels", release.dist, "--to", release.dist]
    done = subprocess.run(command, cwd=release.root, env=release.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        if reason := re.search(r"^NOT BUILT: (.+)$", done.stderr, re.MULTILINE):
            raise Missing(reason[1])
        raise SystemExit(f"the image for {platform} cannot be built:\n{done.stderr.strip()[-3000:]}")
    yield from sorted(set(release.dist.iterdir()) - before)


def build_sboms(release: Release) -> Iterator[Path]:
    """What is in the server, Python and Rust; and in the npm package."""
    chain = release.root / ".github/supply_chain.py"
    target = release.dist / f"cache-sidecar-{release.version}.cdx.json"
    release.run(sys.executable, chain, "sbom", target, folder=release.root)
    yield target
    need("npm")
    target = release.dist / f"cache-sidecar-npm-{release.version}.cdx.json"
    release.run(sys.executable, chain, "npm-sbom", target, folder=release.root)
    yield target
