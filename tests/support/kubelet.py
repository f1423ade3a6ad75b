"""What a kubelet does with a pod, as far as it can be done without containers: its processes, in order, with their probes and hooks.

The processes have the pod's own commands, environment and volumes. Their image's entrypoint is this project's program; a volume is a
folder, and paths below its mount are replaced by paths in that folder. They share this machine's network, so pods need ports of
their own. Limits, users and the file system are those of the test.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.until import until

Pod = dict[str, Any]
# Where the image has its programs.
_BIN = Path(sys.executable).parent


class Node:
    """Runs one pod."""

    def __init__(
        self, pod: Pod, folder: Path, config_maps: Mapping[str, Mapping[str, str]], *, volumes: Mapping[str, Path]
    ) -> None:
        self._spec = pod["spec"]
        self._config_maps = config_maps
        self._volumes = dict(volumes)
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}
        (folder / "bin").mkdir(parents=True)
        self._write_sleep()
        for volume in self._spec["volumes"]:
            if "emptyDir" in volume:
                # A short path, as it is to have a socket.
                (place := folder / str(len(self._volumes))).mkdir()
                self._volumes[volume["name"]] = place

    def _write_sleep(self) -> None:
        """Writes a `sleep` that ends when the test says so: no test is to depend on how fast this machine is."""
        program = self._folder / "bin" / "sleep"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {self._folder}/slept\nwhile [ ! -e {self._folder}/awake ]; do /bin/sleep 0.01; done\n'
        )
        program.chmod(0o755)

    @property
    def slept(self) -> list[str]:
        """How long hooks wanted to sleep, of those that sleep or slept."""
        file = self._folder / "slept"
        return file.read_text().split() if file.exists() else []

    def wake(self) -> None:
        """Ends all sleep of hooks."""
        (self._folder / "awake").touch()

    async def start(self) -> None:
        """Starts the containers, one after the other: sidecars until their startup probe, others until their hook has returned."""
        for container in self._containers():
            process = await self._start(container)
            self._running[container["name"]] = process
            if "startupProbe" in container:
                await until(lambda each=container, process=process: self._has_started(each, process))
            if hook := container.get("lifecycle", {}).get("postStart"):
                done = await self._execute(container, hook["exec"]["command"])
                assert await done.wait() == 0, self.log(container["name"])

    def _containers(self) -> list[Pod]:
        return [*self._spec.get("initContainers", []), *self._spec["containers"]]

    async def _has_started(self, container: Pod, process: asyncio.subprocess.Process) -> bool:
        assert process.returncode is None, self.log(container["name"])
        probe = await self._execute(container, container["startupProbe"]["exec"]["command"])
        return await probe.wait() == 0

    async def lives(self, name: str) -> bool:
        """Says what the liveness probe of a container says."""
        (container,) = [each for each in self._containers() if each["name"] == name]
        return await (await self._execute(container, container["livenessProbe"]["exec"]["command"])).wait() == 0

    async def stop(self) -> dict[str, int | None]:
        """Stops the containers, and native sidecars after all others; returns their exit codes."""
        await asyncio.gather(*map(self._stop, self._spec["containers"]))
        for container in reversed(self._spec.get("initContainers", [])):
            await self._stop(container)
        return {name: process.returncode for name, process in self._running.items()}

    async def _stop(self, container: Pod) -> None:
        """Runs the hook, and then sends SIGTERM."""
        if hook := container.get("lifecycle", {}).get("preStop"):
            done = await self._execute(container, hook["exec"]["command"])
            assert await done.wait() == 0
        process = self._running[container["name"]]
        process.send_signal(signal.SIGTERM)
        await process.wait()

    def kill(self) -> None:
        """Ends what still runs, when a test has failed."""
        for process in self._running.values():
            if process.returncode is None:
                process.kill()

    def runs(self, name: str) -> bool:
        """Says whether a container still runs."""
        return self._running[name].returncode is None

    def log(self, name: str) -> str:
        """Returns what a container wrote."""
        return (self._folder / f"{name}.log").read_text()

    async def _start(self, container: Pod) -> asyncio.subprocess.Process:
        command = container.get("command") or [str(_BIN / "cache-sidecar")]
        return await self._execute(container, [*command, *container.get("args", [])])

    async def _execute(self, container: Pod, command: list[str]) -> asyncio.subprocess.Process:
        with (self._folder / f"{container['name']}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(self._mounted(container, word) for word in command), env=self._environment(container), stdout=log, stderr=log
            )

    def _environment(self, container: Pod) -> dict[str, str]:
        found = {"PATH": f"{self._folder / 'bin'}:{_BIN}:{os.environ['PATH']}"}
        for source in container.get("envFrom", []):
            found |= self._config_maps[source["configMapRef"]["name"]]
        for variable in container.get("env", []):
            found[variable["name"]] = self._mounted(container, variable["value"])
        return found

    def _mounted(self, container: Pod, text: str) -> str:
        for mount in container.get("volumeMounts", []):
            if mount["name"] in self._volumes:
                text = text.replace(f"{mount['mountPath']}/", f"{self._volumes[mount['name']]}/")
        return text
