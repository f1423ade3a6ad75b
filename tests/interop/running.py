"""Runs clients as programs, while the engine that they call runs in this process."""

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.interop import build

_SECONDS = 300.0


class Done(NamedTuple):
    """How a program ended."""

    code: int
    said: str
    errors: str


async def run(*command: object, **environment: str) -> Done:
    """Runs a program to its end; fails when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(), _SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, said.decode(), errors.decode())


def got(client: build.Client) -> Path:
    """Returns where a client is, or skips the test."""
    try:
        path = client.path()
    except build.CannotBuild as error:
        pytest.skip(f"no {client.name}: {error}")
    if not path.exists():
        pytest.skip(f"no {client.name}: `python -m tests.interop.build` gets it, or says why it cannot")
    return path
