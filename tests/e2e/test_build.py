"""What is said where the API server cannot be built: once, and never in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("options", "code", "start"), [([], 1, ""), (["--or-skip"], 0, "NOT RUN: ")])
def test_without_go_it_says_so(options: list[str], code: int, start: str) -> None:
    command = [sys.executable, "-m", "tests.e2e.build", *options]
    environment = os.environ | {"PATH": "/nowhere"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1
