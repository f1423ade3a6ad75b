"""A stand-in for kubectl: it writes down how it was called, and answers what the test prepared."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

# A process of its own, as kubectl is one.
_PROGRAM = """#!{python}
import json, pathlib, signal, sys
folder = pathlib.Path(__file__).parent
said = " ".join(sys.argv[1:])
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], sys.stdin.read() if sys.argv[-2:] == ["-f", "-"] else ""]) + "\\n")
for answer in json.loads((folder / "answers.json").read_text()):
    if answer["to"] in said:
        print(answer["out"], end="", flush=True)
        print(answer["err"], end="", file=sys.stderr, flush=True)
        if answer["stays"]:
            signal.pause()
        sys.exit(answer["code"])
sys.exit(f"nothing is prepared for: {{said}}")
"""


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Kubectl:
    """One in a folder, and the plugin that finds it there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: list[dict[str, Any]] = []
        program = folder / "kubectl"
        program.write_text(_PROGRAM.format(python=sys.executable))
        program.chmod(0o755)

    def answer(self, to: str, out: Any = "", *, err: str = "", code: int = 0, stays: bool = False) -> None:
        """Prepares the answer to commands that contain some words; objects are printed as JSON."""
        text = out if isinstance(out, str) else json.dumps(out)
        self._answers.append({"to": to, "out": text, "err": err, "code": code, "stays": stays})
        (self._folder / "answers.json").write_text(json.dumps(self._answers))

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The arguments of each call, and its standard input."""
        lines = (self._folder / "calls").read_text().splitlines()
        return [(" ".join(arguments), stdin) for arguments, stdin in map(json.loads, lines)]

    async def plugin(self, *arguments: str) -> Done:
        """Runs `kubectl cache-sidecar ARGUMENTS`."""
        return await run_plugin(*arguments, path=str(self._folder))


async def run_plugin(*arguments: str, path: str) -> Done:
    """Runs the plugin with programs from these folders."""
    call = "from cache_sidecar.__main__ import main_of_plugin as main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", call, *arguments),
        env=os.environ | {"PATH": path},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())
