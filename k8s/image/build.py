"""Builds the image: puts its files into a folder, and has docker, podman or buildah make an image of it.

    python k8s/image/build.py --platform linux/amd64 --wheels dist --to dist
    python k8s/image/build.py --lock    # the newest versions of Debian's packages

Everything that is downloaded is pinned by hash: Debian's packages in base.txt, Python's in .requirements.lock. Two builds of
the same wheel have the same digest.
"""

import argparse
import hashlib
import json
import os
import platform as machine
import re
import shutil
import sys
import tarfile
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path
from typing import NamedTuple

import debian
import tools
from elftools.elf.elffile import ELFFile
from problems import CannotBuild, run

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "image"
_VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "cache_sidecar/__init__.py").read_text())
assert _VERSION
VERSION = _VERSION[1]
_PYTHON = "3.13"
# Where both kinds of base have it.
_INTERPRETER = "/usr/local/bin/python3"
_PROGRAM = "opt/cache-sidecar"
_EXTRAS = "injector,mongodb,otel"
# What is not read when the program runs, such as what colours the source of languages, and what says where it was installed.
_UNUSED = (
    "*.c",
    "*.cpp",
    "*.h",
    "*.pxd",
    "*.pyi",
    "*.pyx",
    "*.dist-info/RECORD",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/uv_*.json",
    "pygments/lexers/[a-z]*.py",
)
_SCRIPT = """#!/{program}/bin/python
import sys

from {module} import {name}

sys.exit({name}())
"""


class Platform(NamedTuple):
    """What the image runs on, in the words of each tool."""

    debian: str
    python: str

    @property
    def triplet(self) -> str:
        """The name of its libraries' folder."""
        return f"{self.python}-linux-gnu"


PLATFORMS = {"linux/amd64": Platform("amd64", "x86_64"), "linux/arm64": Platform("arm64", "aarch64")}
_LOADERS = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}


def build(name: str, wheels: Path, target: Path, *, base: str = "scratch") -> tuple[str, Path]:
    """Builds an image, and writes it into the folder `target` as an OCI archive; returns its digest and that file."""
    builder = tools.builder()  # before minutes of work
    platform = PLATFORMS[name]
    wheel = _wheel(wheels, platform)
    context = WORK / platform.debian
    shutil.rmtree(context, ignore_errors=True)
    (context / "base").mkdir(parents=True)
    if base == "scratch":
        debian.unpack(platform.debian, context / "base", WORK / "packages")
        _compile(context / "base", "usr/lib/python3.13")
    _install(wheel, platform, context / "program")
    _compile(context / "program", _PROGRAM)
    for path in [*context.rglob("*"), context]:
        _normalize(path, context)
    return _make(builder, name, context, target, base)


def _wheel(folder: Path, platform: Platform) -> Path:
    """Returns the wheel with the native engine, or, having said so, the one without it."""
    for wheel in folder.glob(f"cache_sidecar-{VERSION}-*linux*_{platform.python}.whl"):
        return wheel
    for wheel in folder.glob(f"cache_sidecar-{VERSION}-py3-none-any.whl"):
        print(f"WITHOUT the native engine: {folder} has no wheel for {platform.python}", file=sys.stderr)
        return wheel
    raise CannotBuild(f"{folder} has no wheel of version {VERSION}: run 'make wheel'")


def _install(wheel: Path, platform: Platform, target: Path) -> None:
    """Writes a virtual environment for that platform, whatever the one of this machine is."""
    packages = target / _PROGRAM / "lib" / f"python{_PYTHON}" / "site-packages"
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wanted = WORK / f"{platform.debian}.txt"
    wanted.write_text(f"cache-sidecar[{_EXTRAS}] @ {wheel.resolve().as_uri()} --hash=sha256:{sha256}\n")
    options = ["--quiet", "--link-mode=copy", "--only-binary=:all:", "--require-hashes", f"--python-version={_PYTHON}"]
    options += [f"--python-platform={platform.python}-manylinux_2_40", f"--constraint={ROOT / '.requirements.lock'}"]
    options += [f"--target={packages}", f"--requirement={wanted}"]
    run(str(Path(sys.executable).with_name("uv")), "pip", "install", *options)
    shutil.rmtree(packages / "bin")
    (packages / ".lock").unlink(missing_ok=True)
    for pattern in _UNUSED:
        for path in packages.rglob(pattern):
            path.unlink()
    _strip(packages, platform)
    _write_programs(packages, target / _PROGRAM)


def _strip(packages: Path, platform: Platform) -> None:
    """Takes what debuggers read from libraries that have it: 26 of 123 MB, most of it uvloop's."""
    strip = "strip" if machine.machine() == platform.python else f"{platform.triplet}-strip"
    strip = shutil.which(strip) or shutil.which("llvm-strip") or ""
    if not strip:
        print(f"NOT STRIPPED, and 26 MB larger: there is no strip for {platform.python}", file=sys.stderr)
        return
    for library in packages.rglob("*.so"):
        with library.open("rb") as file:
            is_wordy = ELFFile(file).get_section_by_name(".symtab") is not None
        if is_wordy:
            run(strip, "--strip-unneeded", str(library))


def _write_programs(packages: Path, target: Path) -> None:
    (target / "bin").mkdir()
    (target / "bin/python").symlink_to(_INTERPRETER)
    (target / "pyvenv.cfg").write_text(f"home = {Path(_INTERPRETER).parent}\ninclude-system-site-packages = false\n")
    (ours,) = packages.glob("cache_sidecar-*.dist-info")
    for program in PathDistribution(ours).entry_points.select(group="console_scripts"):
        _write_program(program, target / "bin" / program.name)


def _write_program(program: EntryPoint, file: Path) -> None:
    file.write_text(_SCRIPT.format(program=_PROGRAM, module=program.module, name=program.attr))
    file.chmod(0o755)


def _compile(root: Path, folder: str) -> None:
    """Compiles all modules below a folder: nothing can be written, or compiled, where the image runs.

    The bytecode is valid whatever the time of the source is, and it is not looked for: neither changes.
    """
    options = ["-q", "--invalidation-mode=unchecked-hash", "-s", str(root), "-p", "/"]
    run(*_interpreter(), "-m", "compileall", *options, str(root / folder))


def _interpreter() -> list[str]:
    """Returns the command of a Python of the image's version that runs here: the image's own one, of this machine's platform.

    Where there is no apt to bring it, it is the one in PATH. It keeps no bytecode of its own modules (-B): how it compiles
    others depends on whether its own were read from bytecode, so a second image would differ from the first.
    """
    if not shutil.which("apt-get") and (python := shutil.which(f"python{_PYTHON}")):
        return [python, "-I", "-B"]
    (platform,) = [each for each in PLATFORMS.values() if each.python == machine.machine()]
    base, new = WORK / "tools", WORK / "tools.new"
    if not base.exists():
        shutil.rmtree(new, ignore_errors=True)
        debian.unpack(platform.debian, new, WORK / "packages")
        new.rename(base)
    libraries = f"{base}/usr/lib/{platform.triplet}"
    return [f"{base}/{_LOADERS[platform.python]}", "--library-path", libraries, f"{base}/usr/bin/python{_PYTHON}", "-I", "-B"]


def _normalize(path: Path, context: Path) -> None:
    """Makes time and mode independent of who builds this, and when."""
    if not path.is_symlink():
        is_open = path.relative_to(context).as_posix() in {"base/tmp", "base/var/tmp"}
        path.chmod(0o1777 if is_open else 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    os.utime(path, (0, 0), follow_symlinks=False)


def _make(builder: list[str], name: str, context: Path, target: Path, base: str) -> tuple[str, Path]:
    platform = PLATFORMS[name]
    # The plain name is that of the image that runs here.
    tag = f"cache-sidecar:{VERSION}" + ("" if platform.python == machine.machine() else f"-{platform.debian}")
    target.mkdir(parents=True, exist_ok=True)
    archive = target / f"cache-sidecar-{VERSION}-{name.replace('/', '-')}.oci.tar"
    archive.unlink(missing_ok=True)
    os.environ["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"  # they have the time in them
    options = ["--build-arg=SOURCE_DATE_EPOCH=0"] if builder[0] == "docker" else ["--format=oci", "--layers", "--timestamp=0"]
    options += [f"--platform={name}", f"--build-arg=BASE={base}", "--no-cache", f"--tag={tag}"]
    options += ["--file", str(Path(__file__).with_name("Dockerfile"))]
    run(*builder, "build", *options, str(context))
    if builder[0] == "buildah":
        run(*builder, "push", tag, f"oci-archive:{archive}:{tag}")
    else:
        run(*builder, "save", *(["--format=oci-archive"] if builder[0] == "podman" else []), "--output", str(archive), tag)
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index
        (image,) = json.load(index)["manifests"]
    return image["digest"], archive


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def main() -> int:
    """Builds; returns the exit code."""
    parser = argparse.ArgumentParser(description="Builds the image.")
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="linux/amd64")
    parser.add_argument("--base", default="scratch", help="an image with Python 3.13 in /usr/local/bin, by digest")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="the folder with the wheels of this version")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="the folder for the image")
    parser.add_argument("--lock", action="store_true", help="write base.txt anew, and build nothing")
    chosen = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.lock:
            debian.lock(platform.debian for platform in PLATFORMS.values())
            return 0
        digest, archive = build(chosen.platform, chosen.wheels, chosen.to, base=chosen.base)
    except CannotBuild as problem:
        print(f"NOT BUILT: {problem}", file=sys.stderr)
        return 1
    context = WORK / PLATFORMS[chosen.platform].debian
    base, program = (_megabytes(context / name) for name in ("base", "program"))
    packed = archive.stat().st_size / 1e6
    print(f"{archive}: {packed:.0f} MB; unpacked {base:.0f} MB of Debian and Python, {program:.0f} MB of ours\n{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
