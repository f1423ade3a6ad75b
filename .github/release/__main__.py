"""Makes a release in dist/ and tries it: `make release`. A dry run: nothing is published, nothing is tagged."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import changelog
import provenance
import refusals
import trials
import versions

import build

STEPS: tuple[tuple[str, Callable[[build.Release], Iterator[Path]]], ...] = (
    ("server: sdist, wheel for any platform", build.build_server),
    ("server: wheel with the native engine", build.build_native),
    ("server: wheel for ARM64", build.build_arm),
    ("Python client", build.build_python_client),
    ("npm client", build.build_npm_client),
    ("Go client", build.build_go_client),
    ("Java client", build.build_java_client),
    ("Helm chart", build.build_chart),
    ("image for x86-64", partial(build.build_image, platform="linux/amd64")),
    ("image for ARM64", partial(build.build_image, platform="linux/arm64")),
    ("SBOMs", build.build_sboms),
)
_TOOLS = ("uv --version", "cargo --version", "node --version", "npm --version", "go version", "mvn --version")


def main(root: Path) -> int:
    """Makes the release; returns the exit code."""
    if reason := refusals.refuse(root):
        print(f"no release: {reason}", file=sys.stderr)
        return 1
    started = time.monotonic()
    commit = refusals.git(root, "rev-parse", "HEAD")
    epoch = int(refusals.git(root, "log", "-1", "--format=%ct"))
    release = build.Release(root, versions.read_version(root), commit, epoch)
    print(f"cache-sidecar {release.version}, commit {commit}: a dry run, nothing is published", flush=True)
    build.export(release)
    for title, step in STEPS:
        _run(title, step, release)
    _describe(release)
    print("tried in clean environments, each with the first program of its page:", flush=True)
    since = time.monotonic()
    for tried in trials.try_server(release):
        print(f"  {time.monotonic() - since:6.1f} s  {tried}", flush=True)
        since = time.monotonic()
    files = [file for file in release.dist.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {size / 1e6:.1f} MB in {release.dist.name}/, {time.monotonic() - started:.0f} s")
    return 0


def _run(title: str, step: Callable[[build.Release], Iterator[Path]], release: build.Release) -> None:
    since = time.monotonic()
    try:
        for file in step(release):
            print(f"  {time.monotonic() - since:6.1f} s {file.stat().st_size / 1e6:8.3f} MB  {file.name}", flush=True)
            since = time.monotonic()
    except build.Missing as reason:
        print(f"SKIPPED {title}: {reason}", flush=True)


def _describe(release: build.Release) -> None:
    """Writes the notes, the provenance and the checksums."""
    notes = release.dist / "RELEASE_NOTES.md"
    notes.write_text(changelog.notes((release.source / "CHANGELOG.md").read_text(), release.version))
    files = list(release.dist.iterdir())
    statement = provenance.state(
        release.source, files, version=release.version, commit=release.commit, epoch=release.epoch, tools=dict(_tools(release))
    )
    described = release.dist / "provenance.intoto.json"
    provenance.write(described, statement)
    provenance.write_sums(release.dist / "SHA256SUMS", [*files, described])


def _tools(release: build.Release) -> Iterator[tuple[str, str]]:
    """Yields the tools that are installed, and their versions."""
    yield "python", sys.version.split()[0]
    for command in _TOOLS:
        name = command.split()[0]
        try:
            said = subprocess.run(command.split(), env=release.environment, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        yield name, said.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[2]))
