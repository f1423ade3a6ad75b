"""Gets, once, what the tests of the pages need: a Chromium, unless there is one, and axe-core, which looks for barriers.

    python -m tests.browser.build            # says in a line why it cannot
    python -m tests.browser.build --or-skip  # the same, but then the tests are left out, visibly

Chromium is Debian's (100 MB), with the libraries that this machine lacks: unpacked in a folder of the user's cache
(`XDG_CACHE_HOME`), not installed. axe-core is npm's, pinned with its hash in `package-lock.json`. Delete both at will.
"""

import argparse
import functools
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.e2e.build import CannotBuild, cache, last_line
from tests.interop.build import fill_once
from tests.support.debian import unpack

_FOLDER = Path(__file__).parent
_INSTALLED = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
_PACKAGE = "chromium-headless-shell"
# A page needs letters.
_PACKAGES = (_PACKAGE, "fonts-dejavu-core")
# Seconds for a download of 100 MB.
_SECONDS = 300


class Chromium(NamedTuple):
    """A browser: its program, and the variables that it needs."""

    program: Path
    environment: Mapping[str, str]


@functools.cache
def chromium() -> Chromium:
    """Returns the browser, once it is there. Raises CannotBuild."""
    for name in _INSTALLED:
        if found := shutil.which(name):
            return Chromium(Path(found), {})
    folder = cache() / "debian-chromium"
    fill_once(folder, _unpack_chromium)
    libraries = [
        str(found) for pattern in ("*-linux-gnu*", "*-linux-gnu*/pulseaudio") for found in (folder / "usr/lib").glob(pattern)
    ]
    return Chromium(folder / "usr/lib/chromium" / _PACKAGE, {"LD_LIBRARY_PATH": ":".join(libraries)})


@functools.cache
def axe() -> str:
    """Returns the source of axe-core. Raises CannotBuild."""
    pins = [_FOLDER / name for name in ("package.json", "package-lock.json", ".npmrc")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in pins)).hexdigest()

    def fill(folder: Path) -> None:
        for file in pins:
            shutil.copy(file, folder)
        _run("npm", "ci", "--silent", folder=folder)

    folder = cache() / f"axe-{digest[:16]}"
    fill_once(folder, fill)
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def _unpack_chromium(folder: Path) -> None:
    unpack(_PACKAGES, folder)
    if not (folder / "usr/lib/chromium" / _PACKAGE).exists():
        raise CannotBuild(f"Debian's {_PACKAGE} is not among the packages that apt knows")


def _run(*command: str, folder: Path) -> None:
    if not shutil.which(command[0]):
        raise CannotBuild(f"{command[0]} is not there")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`{command[0]}` takes too long here") from None
    if done.returncode:
        raise CannotBuild(f"`{' '.join(command[:2])}` fails: {last_line(done.stderr)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.build")
    parser.add_argument("--or-skip", action="store_true", help="succeed also where they cannot be had")
    skips = parser.parse_args().or_skip
    failed = False
    for get in (chromium, axe):
        try:
            get()
        except CannotBuild as error:
            failed = True
            print(f"NOT RUN: the tests of the pages in a browser: {error}", file=sys.stderr)
    return int(failed and not skips)


if __name__ == "__main__":
    sys.exit(main())
