"""`kubectl cache-sidecar` on a real API server, started by the real kubectl. What needs a kubelet is refused, in kubectl's words."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar import __version__
from tests.e2e.cluster import Cluster, Done
from tests.e2e.installed import ENABLED, RESTRICTED, Installed
from tests.e2e.test_injector import deployment, stored
from tests.e2e.versions import newest_only
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)

NAMESPACE = "plugin"
BUDGET = """apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
"""


class Plugin:
    """The real kubectl in PATH, with the plugin beside this Python."""

    def __init__(self, kube: Cluster, folder: Path) -> None:
        self._kube = kube
        self._path = f"{folder}:{Path(sys.executable).parent}"
        program = folder / "kubectl"
        program.write_text(f'#!/bin/sh\nexec {kube.binary} kubectl "$@"\n')
        program.chmod(0o755)

    async def run(self, *arguments: str, kubeconfig: Path | None = None) -> Done:
        """Runs `kubectl cache-sidecar ARGUMENTS -n NAMESPACE`."""
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {"PATH": self._path, "KUBERC": "off", "KUBECONFIG": str(kubeconfig or self._kube.folder / "kubeconfig")}
        process = await asyncio.create_subprocess_exec(
            *(str(self._kube.binary), "kubectl", "cache-sidecar", *arguments, "-n", NAMESPACE),
            env=clean | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Done(process.returncode or 0, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def _kubelet(kube: Cluster) -> AsyncIterator[None]:
    """Writes all the time that pods and their sidecars are ready, as a kubelet would."""

    async def write() -> None:
        while True:
            await kube.start_pods(NAMESPACE)
            for pod in await kube.pods(NAMESPACE):
                mine = {"name": "cache-sidecar", "ready": True, "restartCount": 0, "image": "x", "imageID": "x"}
                path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/status"
                with contextlib.suppress(Exception):  # it may be gone
                    await kube.api.patch(path, {"status": {"initContainerStatuses": [mine]}})
            await asyncio.sleep(0.05)

    writing = asyncio.ensure_future(write())
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


@newest_only
async def test_outdated_sidecars_are_found_and_drained(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    plugin = Plugin(kube, tmp_path)
    await kube.namespace(NAMESPACE, ENABLED | RESTRICTED)
    async with installed.running(), _kubelet(kube):
        await kube.make(NAMESPACE, deployment("web", 2))
        names = [pod["metadata"]["name"] for pod in await stored(kube, NAMESPACE, 2, sidecars=True)]

        async def lists_both() -> Done | None:
            done = await plugin.run("status")
            return done if done.code == 0 and all(name in done.out for name in names) else None

        done = await until(lists_both)
        assert "OUTDATED" not in done.out
        assert await plugin.run("check") == (0, "Deployment/web inject\n", "")

        status = json.dumps({"version": "0.0.9", "config": "x", "mode": "native"})
        await kube.kubectl("annotate", "-n", NAMESPACE, "pod", names[0], "--overwrite", f"cache-sidecar.io/status={status}")
        done = await plugin.run("status")
        assert done.out.endswith(f"OUTDATED  1 of 2 are not {__version__}: {NAMESPACE}/{names[0]}\n")

        # The budget's controller has to have seen it.
        await kube.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=BUDGET)
        budget = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/web"

        async def is_counted() -> bool:
            return (await kube.api.get(budget)).get("status", {}).get("currentHealthy") == 2

        await until(is_counted)
        done = await plugin.run("drain", "--outdated", "--timeout", "1")
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert "Cannot evict pod as it would violate the pod's disruption budget." in done.err
        await kube.delete(budget)

        done = await plugin.run("drain", "--outdated")
        assert done == (0, f"{NAMESPACE}/{names[0]} evicted\n", "")
        left = {pod["metadata"]["name"] for pod in await kube.pods(NAMESPACE)}
        assert (len(left), names[0] in left, names[1] in left) == (2, False, True)
        assert (await plugin.run("drain", "--outdated")).out == f"no sidecar here is outdated: all are {__version__}\n"


@newest_only
async def test_a_workload_without_the_webhook(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    plugin = Plugin(kube, tmp_path)
    with contextlib.suppress(Exception):
        await kube.namespace(NAMESPACE, ENABLED | RESTRICTED)
    made = deployment("plain")
    made["spec"]["replicas"] = 0
    await kube.make(NAMESPACE, made)
    done = await plugin.run("inject", "deployment/plain", "--apply")
    assert done == (0, "Deployment/plain inject\ndeployment.apps/plain replaced\n", "")
    found = await kube.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/plain")
    assert found["spec"]["template"]["spec"]["initContainers"][0]["name"] == "cache-sidecar"


@newest_only
async def test_what_cannot_be_done_is_said_in_kubectls_words(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    plugin = Plugin(kube, tmp_path)
    with contextlib.suppress(Exception):
        await kube.namespace(NAMESPACE, ENABLED | RESTRICTED)
    done = await plugin.run("status", "nobody")
    assert done == (1, "", 'cache-sidecar: Error from server (NotFound): pods "nobody" not found\n')

    await kube.token(NAMESPACE, "default")
    config = json.loads((kube.folder / "kubeconfig").read_text())
    config["users"][0]["user"] = {"token": (kube.folder / "default").read_text()}
    stranger = tmp_path / "stranger"
    stranger.write_text(json.dumps(config))
    done = await plugin.run("status", kubeconfig=stranger)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith("cache-sidecar: Error from server (Forbidden): pods is forbidden: User ")

    # There is no kubelet that could forward a port, or has logs.
    async with installed.running():
        await kube.make(NAMESPACE, deployment("asked"))

        async def is_there() -> str:
            found = await kube.pods(NAMESPACE, "app=asked")
            return found[0]["metadata"]["name"] if found else ""

        name = await until(is_there)
    done = await plugin.run("top", name)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "unable to forward port because pod is not running" in done.err
    # To kubectl, a container that has not started has written nothing.
    assert await plugin.run("logs", name) == (0, "", "")
