"""What cannot be done on this machine, in a line."""

import os
import subprocess


class CannotBuild(Exception):
    """Something that this machine lacks: no fault of the project's."""


def run(*command: str) -> str:
    """Runs a command and returns what it prints. Raises CannotBuild when it is not there, or with what it says last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    except FileNotFoundError:
        raise CannotBuild(f"{command[0]} is not there") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise CannotBuild(f"{command[0]}: {said[-1].strip()}")
    return done.stdout
