"""Runs clients that are programs, while the engine they call goes on in this process."""

import asyncio
import os
from typing import NamedTuple

_SECONDS = 60.0


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
