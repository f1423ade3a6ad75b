"""The pods of the golden files on a real API server, which looks at more than the published schemas say."""

import pytest

from cache_sidecar.injector.api import ApiRefused, Object
from tests.e2e.cluster import Cluster
from tests.injector import cases

pytestmark = pytest.mark.timeout(300)

PATH = "/api/v1/namespaces/golden/pods?dryRun=All"


async def refusal(kube: Cluster, pod: Object) -> str:
    metadata = pod.get("metadata") or {}
    placed = {"apiVersion": "v1", "kind": "Pod"} | pod | {"metadata": metadata | {"name": "x", "namespace": "golden"}}
    try:
        await kube.api.create(PATH, placed)
    except ApiRefused as error:
        return str(error)
    return ""


async def test_whatever_pod_it_takes_it_takes_with_the_sidecar(kube: Cluster) -> None:
    await kube.namespace("golden", {})
    taken = []
    for name in cases.NAMES:
        case = cases.load(name)
        pod = cases.patched(case)
        if pod and not await refusal(kube, case.pod):
            assert await refusal(kube, pod) == "", name
            taken.append(name)
    assert len(taken) >= 30, "most of them"
