"""What is said of a client that cannot be had: once, and never in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("options", "code"), [([], 1), (["--or-skip"], 0)])
def test_each_language_that_is_not_there_is_named(options: list[str], code: int) -> None:
    command = [sys.executable, "-m", "tests.interop.build", *options]
    environment = os.environ | {"PATH": "/nowhere"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert [line.split(": ")[1:] for line in done.stderr.splitlines()] == [
        ["the tests with Node.js", "node is not there"],
        ["the tests with grpc-java's interop suite", "java is not there"],
        ["the tests with a server that speaks MongoDB's protocol", "java is not there"],
        ["the tests with grpc-go's interop client", "Go is not there"],
        ["the tests with a shop in Go", "Go is not there"],
        ["the tests with grpcurl", "Go is not there"],
    ]
