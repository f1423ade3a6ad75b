"""Unpacks, once, Debian's Prometheus and Alertmanager. Nothing is installed, and no daemon is started.

    python -m tests.monitoring.build            # says in a line why it cannot
    python -m tests.monitoring.build --or-skip  # the same, but then the tests are left out, visibly

The programs are in a folder of the user's cache (`XDG_CACHE_HOME`). Delete it at will: the next run fetches what Debian has then.
"""

import argparse
import sys
from pathlib import Path

from tests.e2e.build import CannotBuild, cache
from tests.interop.build import fill_once
from tests.support.debian import fetch

PACKAGES = ("prometheus", "prometheus-alertmanager")
_BIN = "usr/bin"
PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL = "prometheus", "promtool", "prometheus-alertmanager", "amtool"
# Where Debian's Alertmanager reads its templates: absolute, and as long, but below the working directory.
_DATA = (b"/usr/share/prometheus/alertmanager", b"usr//share/prometheus/alertmanager")


def programs() -> Path:
    """Returns the folder with the programs, once they are there. Raises CannotBuild."""
    folder = cache() / "debian-prometheus"
    fill_once(folder, _unpack)
    return folder / _BIN


def _unpack(folder: Path) -> None:
    fetch(PACKAGES, folder)
    alertmanager = folder / _BIN / ALERTMANAGER
    alertmanager.write_bytes(alertmanager.read_bytes().replace(*_DATA))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.build")
    parser.add_argument("--or-skip", action="store_true", help="succeed also where they cannot be had")
    skips = parser.parse_args().or_skip
    try:
        programs()
    except CannotBuild as error:
        print(f"NOT RUN: the tests with a real Prometheus: {error}" if skips else error, file=sys.stderr)
        return 0 if skips else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
