"""Runs kubectl, which knows the cluster, and may do there what its user may."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, NoReturn

from cache_sidecar.core.errors import InputError, SidecarError

_FORWARDING = re.compile(rb"Forwarding from (127\.0\.0\.1:\d+) ->")


class KubectlFailed(SidecarError):
    """A command of kubectl failed; the text is its own last line."""


class Kubectl(NamedTuple):
    """How kubectl is called. Its methods raise KubectlFailed, and InputError if there is no kubectl."""

    options: tuple[str, ...] = ()
    "Such as `--context=production`."

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Returns what a command prints."""
        with _missing():
            done = subprocess.run(self._command(*arguments), input=stdin, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise KubectlFailed(_last_line(done.stderr))
        sys.stderr.write(done.stderr)  # warnings
        return done.stdout

    def read(self, *arguments: str) -> Any:
        """Returns what `get` finds, as JSON."""
        return json.loads(self.run("get", *arguments, "-o", "json"))

    def become(self, *arguments: str) -> NoReturn:
        """Runs a command in place of this process."""
        sys.stdout.flush()
        with _missing():
            command = self._command(*arguments)
            os.execvp(command[0], command)  # noqa: S606
        raise AssertionError  # does not return

    @contextlib.asynccontextmanager
    async def forward(self, pod: str, port: int) -> AsyncIterator[str]:
        """Forwards a port of this machine to one of a pod; yields its address."""
        pipe = asyncio.subprocess.PIPE
        with _missing():
            command = self._command("port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}")
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        assert process.stdout is not None
        assert process.stderr is not None
        said = asyncio.ensure_future(process.stderr.read())
        # It prints a line for each connection, too: if nobody reads, it stops in the end.
        rest: asyncio.Future[bytes] | None = None
        try:
            found = _FORWARDING.match(await process.stdout.readline())
            if found is None:
                raise KubectlFailed(_last_line((await said).decode(errors="replace")))
            rest = asyncio.ensure_future(process.stdout.read())
            yield found[1].decode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            await asyncio.gather(said, *([rest] if rest else []))

    def _command(self, *arguments: str) -> list[str]:
        return ["kubectl", *self.options, *arguments]


@contextlib.contextmanager
def _missing() -> Any:
    try:
        yield
    except FileNotFoundError:
        raise InputError("kubectl is not installed, or not in PATH: https://kubernetes.io/docs/tasks/tools/") from None


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["kubectl failed, and did not say why"])[-1]
