"""What is shipped, rendered by the real kustomize, judged by kube-score, and taken by the API server without a warning."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import build
from tests.e2e.cluster import Cluster
from tests.e2e.installed import NAMESPACE, Installed, has_sidecar
from tests.e2e.versions import newest_only, program
from tests.injector.manifests import ALL, K8S, Object, read, rendered
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)

# Its images' versions don't move, so what is there need not be pulled; what they write goes to volumes, and logs are the node's.
_NOT_OURS = ["container-image-pull-policy", "container-ephemeral-storage-request-and-limit"]
# The users of the images that everybody knows, and those that OpenShift chooses from the range of the namespace.
_OTHERS_IDS = [*_NOT_OURS, "container-security-context-user-group-id"]
_WARNED = {
    "base": {"Deployment few replicas"},
    "dev": {"Deployment few replicas"},
    # It spreads them by topologySpreadConstraints.
    "shop": {"Deployment does not have a host podAntiAffinity set"},
    "shop-autoscaling": {"Deployment does not have a host podAntiAffinity set"},
}


def kustomized(name: str, folder: Path) -> str:
    """Returns what kustomize makes of one of `ALL`."""
    root, components = ALL[name]
    kustomization = {
        "resources": [os.path.relpath(root.resolve(), folder.resolve())],
        "components": [os.path.relpath(component.resolve(), folder.resolve()) for component in components],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    command = [program(build.KUBE), "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", ALL)
def test_kustomize_renders_what_the_other_tests_look_at(name: str, tmp_path: Path) -> None:
    def ordered(objects: list[Object]) -> list[Object]:
        for thing in objects:
            # Of the last line of a file that a patch adds, kustomize keeps no end.
            if thing["kind"] == "ConfigMap":
                thing["data"] = {key: text.rstrip("\n") for key, text in thing["data"].items()}
        return sorted(objects, key=lambda thing: (thing["kind"], thing["metadata"]["name"]))

    assert ordered(read(kustomized(name, tmp_path))) == ordered(rendered(name))


@pytest.mark.parametrize("name", ALL)
def test_kube_score_finds_nothing_to_complain_of(name: str, tmp_path: Path) -> None:
    ignored = _OTHERS_IDS if name in {"postgres", "redis-cluster", "openshift"} else _NOT_OURS
    options = [option for test in ignored for option in ("--ignore-test", test)]
    command = [program(build.SCORE), "score", "--output-format", "ci", *options, "-"]
    done = subprocess.run(command, input=kustomized(name, tmp_path), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]"))]
    assert {line.partition(": ")[2] for line in lines} == _WARNED.get(name, set()), lines
    assert done.returncode == 0


async def test_as_the_guide_applies_them(kube: Cluster, installed: Installed) -> None:
    for example in ("redis-cluster", "postgres"):
        await kube.kubectl("apply", "-k", K8S / "examples" / example)
    await installed.apply("ha")
    try:
        async with installed.running():
            await kube.kubectl("apply", "-k", K8S / "examples" / "shop")
            script = ["sh", str(K8S / "examples" / "postgres" / "certificate.sh")]
            printed = await asyncio.to_thread(subprocess.run, script, check=True, capture_output=True, text=True)
            await kube.kubectl("apply", "-f", "-", stdin=printed.stdout)
            # The autoscaler sees to it that there are three, without knowing a figure yet.
            await until(lambda: _sidecars(kube, app="shop", count=3))
        expected = {"cache-sidecar-injector": 2, "cache-sidecar-relay": 2, "cache-sidecar-migrate": 1}
        await until(lambda: _are_stored(kube, NAMESPACE, expected))
        await until(lambda: _are_stored(kube, "stores", {"valkey": 6, "postgres": 1, "valkey-create-cluster": 1}))
        # Of cert-manager's kinds it knows nothing.
        both = [thing for thing in rendered("both") if not thing["apiVersion"].startswith("cert-manager.io/")]
        listed = {"apiVersion": "v1", "kind": "List", "items": both}
        await kube.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(listed))
    finally:
        await installed.reset()


async def _sidecars(kube: Cluster, *, app: str, count: int) -> bool:
    pods = await kube.pods("shop", f"app.kubernetes.io/name={app}")
    return len(pods) == count and all(has_sidecar(pod) for pod in pods)


async def _are_stored(kube: Cluster, namespace: str, expected: dict[str, int]) -> bool:
    await kube.start_pods(namespace)  # a rollout goes on when the pods are ready
    found: dict[str, int] = {}
    for pod in await kube.pods(namespace):
        name = pod["metadata"]["labels"].get("app.kubernetes.io/name")
        found[name] = found.get(name, 0) + 1
    return expected.items() <= found.items()


@newest_only
async def test_blue_and_green_step_by_step(kube: Cluster, installed: Installed) -> None:
    async with installed.running():
        shop: Any = [thing for thing in rendered("shop") if thing["kind"] == "Deployment"]
        shop[0]["metadata"]["namespace"] = "blue-green"
        await kube.namespace("blue-green", {})
        await kube.kubectl("apply", "-f", "-", stdin=json.dumps(shop[0]))
        green = json.loads(await kube.kubectl("-n", "blue-green", "get", "deployment", "shop", "-o", "json"))
        # What the guide's yq changes.
        green["metadata"]["name"] = "shop-green"
        green["spec"]["replicas"] = 1
        green["spec"]["selector"]["matchLabels"]["track"] = "green"
        green["spec"]["template"]["metadata"]["labels"] |= {"track": "green", "cache-sidecar.io/inject": "enabled"}
        await kube.kubectl("apply", "-f", "-", stdin=json.dumps(green))
        for new, old in ((1, 9), (10, 0), (0, 10)):
            for name, count in (("shop-green", new), ("shop", old)):
                await kube.kubectl("-n", "blue-green", "scale", "deployment", name, f"--replicas={count}")

            async def are_so_many(new: int = new, old: int = old) -> bool:
                pods = await kube.pods("blue-green", "app.kubernetes.io/name=shop")
                return sorted(map(has_sidecar, pods)) == [False] * old + [True] * new

            await until(are_so_many)
