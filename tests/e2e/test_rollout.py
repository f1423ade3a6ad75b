"""A rollout of a thousand pods: each has its sidecar, is reviewed once, and costs the injector no memory that stays."""

import psutil
import pytest

from cache_sidecar.injector import quantity
from tests.e2e.cluster import Cluster
from tests.e2e.installed import ENABLED, Installed, has_sidecar
from tests.e2e.test_injector import deployment
from tests.e2e.test_webhook import admissions
from tests.e2e.versions import newest_only
from tests.injector.manifests import rendered
from tests.support.until import until

pytestmark = pytest.mark.timeout(1200)

PODS = 1000
# A busy machine takes many minutes.
SECONDS = 900.0


@newest_only
async def test_a_thousand_pods_are_replaced(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("rollout", ENABLED)
    (limit,) = {
        quantity.parse(thing["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        for thing in rendered("base")
        if thing["metadata"]["name"] == "cache-sidecar-injector" and thing["kind"] == "Deployment"
    }
    seen: set[str] = set()

    async def are_all_new(before: frozenset[str]) -> bool:
        """Says whether there are so many pods, none from before. As a kubelet, it has them run."""
        await kube.start_pods("rollout")
        pods = await kube.pods("rollout")
        assert all(map(has_sidecar, pods)), "no pod is missed"
        names = {pod["metadata"]["name"] for pod in pods}
        seen.update(names)
        return len(names) == PODS and not names & before

    async with installed.running() as webhook:
        at_first = await admissions(webhook)
        await kube.make("rollout", deployment("web", PODS))
        await until(lambda: are_all_new(frozenset()), seconds=SECONDS)
        old = frozenset(seen)
        assert await admissions(webhook) - at_first == PODS, "each is reviewed once"
        await kube.kubectl("rollout", "restart", "-n", "rollout", "deployment", "web")
        await until(lambda: are_all_new(old), seconds=SECONDS)
        assert await admissions(webhook) - at_first == 2 * PODS
        assert psutil.Process(webhook.process.pid).memory_info().rss < limit
    await kube.kubectl("delete", "-n", "rollout", "deployment", "web", "--cascade=foreground")
