"""A server in Go to compare with."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.bench.processes import BenchError

_FOLDER = Path(__file__).parent
_PROGRAM = Path("build/bench-bare-go").absolute()


def is_installed() -> bool:
    """Says whether Go is there."""
    return shutil.which("go") is not None


def build() -> Path:
    """Returns the program, built anew when it is not of these sources. Raises BenchError when it cannot be built."""
    _PROGRAM.parent.mkdir(exist_ok=True)
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    command = ["go", "build", "-trimpath", "-o", _PROGRAM, "."]
    done = subprocess.run(command, cwd=_FOLDER, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the server in Go cannot be built: {done.stderr.strip().splitlines()[-1]}")
    return _PROGRAM
