"""Output that cannot be written: one line and an exit code, from every command that prints."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
SETTINGS = {"CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1", "CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://127.0.0.1:1/none"}
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b}]}\n"
COMMANDS = [["--help"], ["--version"], ["config"], ["user", "erase", "--help"], ["inject", "-f", "-"], ["check", "-f", "-"]]

needs_full = pytest.mark.skipif(not FULL.exists(), reason="this machine has no /dev/full")


def run(*command: str, redirect: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m cache_sidecar COMMAND` with its output as a shell redirects it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "cache_sidecar", *command],
        env=SETTINGS,
        input=POD,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_full
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_is_one_line(command: list[str]) -> None:
    done = run(*command, redirect=">/dev/full")
    assert done.returncode == 74
    *_, last = done.stderr.splitlines(keepends=True)
    assert last == "cache-sidecar: cannot write or read: No space left on device\n"
    assert "Traceback" not in done.stderr


@needs_full
def test_the_exit_code_is_the_same_when_nothing_can_be_said() -> None:
    assert run("config", redirect=">/dev/full 2>/dev/full").returncode == 74
    assert run("config", "--config", "/no/such/file", redirect="2>/dev/full").returncode == 64


def test_an_output_that_is_closed_is_none() -> None:
    assert run("--version", redirect=">&-").returncode == 0
