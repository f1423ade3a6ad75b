"""The programs that build and run images: docker, podman or buildah, whichever works here, as root or as an ordinary user.

As a program, it says in a line why no image can be run here.
"""

import shutil
import sys
from pathlib import Path

from problems import CannotBuild, run

_MISSING = "install one of docker, podman or buildah, such as by 'apt-get install podman buildah' on Debian"
# podman asks systemd for a control group and for a log of events, where there is one.
_WITHOUT_SYSTEMD = ["--cgroup-manager=cgroupfs", "--events-backend=none"]


def builder() -> list[str]:
    """Returns the command that builds images. Raises CannotBuild with why none does."""
    return _first_of("docker", "podman", "buildah")


def runner() -> list[str]:
    """Returns the command that runs images. Raises CannotBuild with why none does."""
    return _first_of("docker", "podman")  # buildah only builds


def _first_of(*names: str) -> list[str]:
    reasons = []
    for name in names:
        if not shutil.which(name):
            continue
        command = [name, *_options(name)]
        try:
            run(*command, "version")  # docker fails without its daemon
        except CannotBuild as problem:
            reasons.append(str(problem))
        else:
            return command
    found = "; ".join(reasons) or f"{', '.join(names)}: none is there"
    raise CannotBuild(f"{found}: {_MISSING}")


def _options(name: str) -> list[str]:
    if name != "podman" or Path("/run/systemd/system").exists():
        return []
    # crun, its first choice, refuses control groups that it did not make.
    return [*_WITHOUT_SYSTEMD, *(["--runtime=runc"] if shutil.which("runc") else [])]


def main() -> int:
    """Says whether images can be run; returns the exit code."""
    try:
        runner()
    except CannotBuild as problem:
        print(f"NOT RUN: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
