"""Containers of the image, as a node would run them: without a right, with nothing to write to, on this machine's network."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

from cache_sidecar import __version__
from cache_sidecar.core.container_memory import MIB
from tests.injector.manifests import K8S

sys.path.insert(0, str(K8S / "image"))
import tools

IMAGE = f"cache-sidecar:{__version__}"
MEMORY = 512 * MIB
"Its limit, in bytes."
# Within the limits of any machine: by default podman wants more than a machine may have.
_LIMITS = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]


class Container:
    """A running one, or one that has ended."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def says(self, *command: str) -> str:
        """Runs a command in it, which has to succeed; returns what it prints."""
        return await podman("exec", self.name, *command)

    async def is_serving(self, address: str) -> bool:
        """Says what the probe says, which is run in the container."""
        with contextlib.suppress(AssertionError):
            await self.says("cache-sidecar-probe", address)
            return True
        return False

    async def runs(self, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Says whether something is true yet; it must not have ended."""
        assert await podman("inspect", "--format={{.State.Running}}", self.name) == "true\n", await self.log()
        return await condition()

    async def terminate(self) -> int:
        """Sends SIGTERM; returns the exit code."""
        await podman("kill", "--signal=TERM", self.name)
        return await self.code()

    async def code(self) -> int:
        """Waits for its end; returns the exit code."""
        return int(await podman("wait", self.name))

    async def log(self) -> str:
        """Returns what it wrote."""
        return await podman("logs", self.name, is_all=True)


@contextlib.asynccontextmanager
async def container(
    *arguments: str, user: str, entrypoint: str = "", mount: str = "", **settings: str
) -> AsyncIterator[Container]:
    """Runs the image; settings are environment variables without their prefix.

    `mount` is a folder that it may read, and comes with the small /tmp that the injector has in its manifest.
    """
    started = Container(f"cache-sidecar-{uuid4().hex[:8]}")
    options = [f"--name={started.name}", f"--user={user}", f"--memory={MEMORY}", *_LIMITS, "--network=host"]
    options += ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    if tools.runner()[0] == "podman":
        options.append("--read-only-tmpfs=false")
    options += [f"--env=CACHE_SIDECAR_{name.upper()}={value}" for name, value in settings.items()]
    options += [f"--entrypoint={entrypoint}"] if entrypoint else []
    options += [f"--volume={mount}:{mount}:ro", "--tmpfs=/tmp:size=1m"] if mount else []
    await podman("run", "--detach", *options, IMAGE, *arguments)
    try:
        yield started
    finally:
        await podman("rm", "--force", started.name)


async def podman(*arguments: str, is_all: bool = False) -> str:
    """Runs podman or docker, which has to succeed; returns its output, or all that it wrote."""
    process = await asyncio.create_subprocess_exec(
        *tools.runner(), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return (out + err if is_all else out).decode()
