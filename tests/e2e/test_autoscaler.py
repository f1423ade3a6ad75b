"""The example's autoscaler goes by what the sidecars use."""

from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.installed import ENABLED, Installed
from tests.e2e.metrics import metrics
from tests.e2e.versions import newest_only
from tests.injector.manifests import rendered
from tests.support.free_ports import ChoosePorts
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)


@newest_only
async def test_busy_sidecars_are_reason_enough_for_more_pods(
    kube: Cluster, installed: Installed, choose_ports: ChoosePorts, tmp_path: Path
) -> None:
    await kube.namespace("busy", ENABLED)
    (port,) = choose_ports(1)
    (deployment,) = [thing for thing in rendered("shop") if thing["kind"] == "Deployment"]
    (autoscaler,) = [thing for thing in rendered("shop") if thing["kind"] == "HorizontalPodAutoscaler"]
    for thing in (deployment, autoscaler):
        thing["metadata"]["namespace"] = "busy"

    path = "/apis/autoscaling/v2/namespaces/busy/horizontalpodautoscalers/shop"

    async def are_more() -> bool:
        await kube.start_pods("busy")
        found = await kube.api.get("/apis/apps/v1/namespaces/busy/deployments/shop")
        return found["spec"]["replicas"] >= 6

    async def is_seen() -> bool:
        found = [each["containerResource"] for each in (await kube.api.get(path))["status"].get("currentMetrics") or []]
        return {each["container"]: each["current"].get("averageUtilization") for each in found} == {
            "cache-sidecar": 600,
            "shop": 10,
        }

    # Of the 25m that the overlay dev requests for a sidecar, twice what they are meant to use; the application is idle.
    async with installed.running(), metrics(kube, tmp_path, port, {"cache-sidecar": "150m", "shop": "10m"}):
        await kube.make("busy", deployment)
        await kube.make("busy", autoscaler)
        await until(are_more)
        await until(is_seen)
        await kube.delete(path)
