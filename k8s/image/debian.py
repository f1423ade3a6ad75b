"""The image's base: Python and the libraries that it needs, from Debian's packages, which are unpacked and not installed.

There is no shell, no package manager and no program but Python. base.txt has the packages, a line each: architecture, archive,
path in it and SHA-256. `lock` writes it anew, from the lists of packages that Debian signs.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cmp_to_key
from pathlib import Path
from typing import NamedTuple

from problems import CannotBuild, run

LOCK = Path(__file__).with_name("base.txt")
_RELEASE = "trixie"
_PACKAGES = (
    "base-files",  # the links of /usr, and the licences
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "libssl3t64",
    "libstdc++6",  # of grpcio
    "libzstd1",  # of libssl
    "openssl-provider-legacy",
    "python3.13-minimal",
    "tzdata",
    "zlib1g",
)
_ARCHIVES = {"debian": f"{_RELEASE} main", "debian-security": f"{_RELEASE}-security main"}
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT_HELPER = "/usr/lib/apt/apt-helper"
# Nothing of the program looks at these. Licences, in `doc`, stay.
_UNUSED = (
    "etc/update-motd.d",
    "usr/lib/*/gconv",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/test",
    "usr/sbin/*",
    "usr/share/doc/*/NEWS*",
    "usr/share/doc/*/changelog*",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo/right",
)


class Package(NamedTuple):
    """A file of one of Debian's archives."""

    architecture: str
    archive: str
    path: str
    sha256: str


def unpack(architecture: str, target: Path, packages: Path) -> None:
    """Writes the base into an empty folder, from files that are kept in `packages`.

    Raises CannotBuild where apt is not there or has no such file.
    """
    packages.mkdir(parents=True, exist_ok=True)
    for package in map(Package._make, map(str.split, LOCK.read_text().splitlines())):
        if package.architecture == architecture:
            run("dpkg-deb", "-x", str(_fetched(package, packages)), str(target))
    for pattern in _UNUSED:
        for path in target.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _configure(target)


def _fetched(package: Package, folder: Path) -> Path:
    """Returns the package's file, once it is there."""
    file = folder / f"{package.sha256}.deb"
    if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != package.sha256:
        url = f"{_mirror(package.archive)}/{package.path}"
        try:
            run(_APT_HELPER, "download-file", url, str(file), f"SHA256:{package.sha256}")
        except CannotBuild as problem:
            raise CannotBuild(f"{problem} ({package.path}): if Debian has a newer version, run 'make image-lock'") from None
    return file


@functools.cache
def _mirror(archive: str) -> str:
    """Returns where DEBIAN_MIRROR, or else this machine's apt, has an archive."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return f"{mirror.rstrip('/')}/{archive}"
    for site in run("apt-get", "indextargets", "--format", "$(SITE)").split():
        if site.rstrip("/").endswith(f"/{archive}"):
            return site.rstrip("/")
    raise CannotBuild(f"apt has no source that ends in '/{archive}': set DEBIAN_MIRROR to where the folder '{archive}' is")


def _configure(target: Path) -> None:
    """Writes what the packages' own scripts would have written."""
    certificates = sorted((target / "usr/share/ca-certificates").rglob("*.crt"))
    (target / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    (target / "etc/ssl/certs/ca-certificates.crt").write_bytes(b"".join(path.read_bytes() for path in certificates))
    (target / "usr/lib/ssl").mkdir(parents=True, exist_ok=True)
    (target / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    (target / "etc/passwd").write_text("root:x:0:0::/:/sbin/nologin\nnonroot:x:65532:65532::/:/sbin/nologin\n")
    (target / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    (target / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    (target / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (target / "usr/local/bin/python3").symlink_to("/usr/bin/python3.13")


def lock(architectures: Iterable[str]) -> None:
    """Writes base.txt: the newest version of each package that the archives have now."""
    lines = [" ".join(package) for architecture in architectures for package in _newest(architecture)]
    LOCK.write_text("".join(f"{line}\n" for line in lines))


def _newest(architecture: str) -> list[Package]:
    with tempfile.TemporaryDirectory() as folder:
        files = _lists(architecture, Path(folder))
        found: dict[str, list[tuple[str, Package]]] = {}
        for archive, text in files.items():
            for entry in text.split("\n\n"):
                field = dict(re.findall(r"^([\w-]+): (.*)$", entry, re.MULTILINE))
                if field.get("Package") in _PACKAGES:
                    package = Package(architecture, archive, field["Filename"], field["SHA256"])
                    found.setdefault(field["Package"], []).append((field["Version"], package))
    by_version = cmp_to_key(lambda one, other: 1 if _is_newer(one[0], other[0]) else -1)
    return [max(found[name], key=by_version)[1] for name in _PACKAGES]


def _lists(architecture: str, folder: Path) -> Mapping[str, str]:
    """Returns the text of the list of packages of each archive."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "status").touch()
    sources = [f"deb [signed-by={_KEYS}] {_mirror(name)} {suite}\n" for name, suite in _ARCHIVES.items()]
    (folder / "sources.list").write_text("".join(sources))
    options = {
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
    }
    arguments = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *arguments, "update")
    listed = run("apt-get", *arguments, "indextargets", "--format", "$(SITE) $(FILENAME)", "Created-By: Packages")
    places = [line.split(" ", 1) for line in listed.splitlines()]
    return {site.rstrip("/").rpartition("/")[2]: run(_APT_HELPER, "cat-file", file) for site, file in places}


def _is_newer(version: str, than: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", than], check=False).returncode == 0
