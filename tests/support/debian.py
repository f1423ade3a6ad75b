"""Debian's packages, unpacked in a folder and not installed.

apt's own user, which downloads, has to be able to reach the folder.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.build import CannotBuild, last_line

# Seconds for a download of 100 MB.
_SECONDS = 300


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Unpacks packages, with those that they need and this machine lacks, into an empty folder. Raises CannotBuild."""
    wanted = _run("apt-get", "-qq", "-y", "--no-install-recommends", "--print-uris", "install", *packages, folder=folder)
    files = re.findall(r"^'\S+' (\S+?)_\S+ \d+", wanted, re.MULTILINE)
    if files:
        fetch(files, folder)


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Downloads and unpacks these packages alone, whether or not they are installed. Raises CannotBuild."""
    _run("apt-get", "download", "-qq", *packages, folder=folder)
    for package in folder.glob("*.deb"):
        _run("dpkg-deb", "-x", package.name, ".", folder=folder)
        package.unlink()


def _run(*command: str, folder: Path) -> str:
    if not shutil.which(command[0]):
        raise CannotBuild(f"{command[0]} is not there: these tests use the packages of Debian")
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`{command[0]}` takes too long here") from None
    if done.returncode:
        raise CannotBuild(f"Debian's packages cannot be had: {last_line(done.stderr)}")
    return done.stdout
