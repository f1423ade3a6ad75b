"""The versions of Kubernetes that the tests run on, and the programs built for them."""

from pathlib import Path

import pytest

from tests.e2e import build

OLDEST = "1.34"
"The oldest that a kube-apiserver of the newest version emulates."
NEWEST = build.KUBERNETES.rpartition(".")[0]

newest_only = pytest.mark.parametrize("kube", [NEWEST], indirect=True)
"For behaviour that is the same in every version of Kubernetes."


def program(which: build.Program) -> Path:
    """Returns where a program is, or skips the test."""
    try:
        found = build.path(which)
    except build.CannotBuild as error:
        pytest.skip(f"no real Kubernetes API server: {error}")
    if not found.exists():
        pytest.skip("no real Kubernetes API server: `make e2e` builds it, or says why it cannot")
    return found
