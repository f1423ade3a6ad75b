"""The version, which is written in `cache_sidecar/__init__.py`, and every other place that has to say the same.

python .github/release/versions.py        # writes it into the other places: `make version`
python .github/release/versions.py 0.3.0  # changes it first: `make version TO=0.3.0`
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SOURCE = "cache_sidecar/__init__.py"
# The form that Python, npm, Cargo, Maven, Go and Helm read alike.
VERSION = r"\d+\.\d+\.\d+"
_IN_SOURCE = re.compile(rf'^__version__ = "({VERSION})"$', re.MULTILINE)
_MAVEN = (
    rf"<groupId>io\.cachesidecar</groupId>\s*<artifactId>cache-sidecar-[a-z-]+</artifactId>\s*<version>({VERSION})</version>"
)
_JOB = r"\bcache-sidecar-migrate-(\d+-\d+-\d+)\b"
_IMAGE = rf"\bcache-sidecar:({VERSION})\b"


class Place(NamedTuple):
    """Files, and how the version is written in them."""

    files: str
    "A glob, from the project's folder. At least one of the files has it."
    pattern: str
    "A regular expression whose only group is the version."
    separator: str = "."


PLACES = (
    Place("cache_sidecar/native/Cargo.toml", rf'\A\[package\]\nname = "cache-sidecar-native"\nversion = "({VERSION})"'),
    Place("cache_sidecar/native/Cargo.lock", rf'name = "cache-sidecar-native"\nversion = "({VERSION})"'),
    Place("cache_sidecar/native/fuzz/Cargo.lock", rf'name = "cache-sidecar-native"\nversion = "({VERSION})"'),
    Place("clients/python/cache_sidecar_client/_version.py", rf'VERSION = "({VERSION})"'),
    Place("clients/typescript/package.json", rf'"name": "@cache-sidecar/client",\s*"version": "({VERSION})"'),
    Place("clients/typescript/package-lock.json", rf'"name": "@cache-sidecar/client",\s*"version": "({VERSION})"'),
    Place("clients/java/pom.xml", _MAVEN),
    Place("clients/java/*/pom.xml", _MAVEN),
    Place("clients/java/examples/*/pom.xml", _MAVEN),
    Place("clients/java/README.md", _MAVEN),
    Place("k8s/chart/Chart.yaml", rf"^(?:version|appVersion): ({VERSION})$"),
    Place("k8s/image/Dockerfile", rf'image\.version="({VERSION})"'),
    Place("k8s/**/*", _IMAGE),
    Place("cache_sidecar/**/*.md", _IMAGE),
    Place("k8s/**/*", _JOB, separator="-"),
)


class Found(NamedTuple):
    """The version in a file."""

    file: Path
    version: str
    start: int
    "Its offset."
    separator: str = "."


def read_version(root: Path = ROOT) -> str:
    """Returns the version."""
    found = _IN_SOURCE.search((root / SOURCE).read_text())
    if found is None:
        raise SystemExit(f"{SOURCE} has no version of the form 1.2.3")
    return found[1]


def find_all(root: Path = ROOT) -> Iterator[Found]:
    """Yields the version in each place. Raises SystemExit for a place that has none."""
    for place in PLACES:
        pattern = re.compile(place.pattern, re.MULTILINE)
        files = [file for file in sorted(root.glob(place.files)) if file.is_file() and file.suffix != ".pyc"]
        found = [
            Found(file, match[1].replace(place.separator, "."), match.start(1), place.separator)
            for file in files
            for match in pattern.finditer(file.read_text())
        ]
        if not found:
            raise SystemExit(f"{place.files} has no version: correct `PLACES` in .github/release/versions.py")
        yield from found


def find_others(root: Path = ROOT) -> list[str]:
    """Returns a line for each place that has another version."""
    version = read_version(root)
    return [
        f"{found.file.relative_to(root)} has {found.version}, and {SOURCE} has {version}: run 'make version'"
        for found in find_all(root)
        if found.version != version
    ]


def write(root: Path = ROOT, version: str = "") -> None:
    """Writes the version, or another one if it is given, into all places."""
    if version:
        if not re.fullmatch(VERSION, version):
            raise SystemExit(f"{version!r} is no version of the form 1.2.3")
        source = root / SOURCE
        source.write_text(_IN_SOURCE.sub(f'__version__ = "{version}"', source.read_text()))
    version = read_version(root)
    # From the end, so that offsets stay right.
    for found in sorted(find_all(root), key=lambda one: one.start, reverse=True):
        text = found.file.read_text()
        new = version.replace(".", found.separator)
        found.file.write_text(text[: found.start] + new + text[found.start + len(found.version) :])


if __name__ == "__main__":
    write(ROOT, *sys.argv[1:2])
