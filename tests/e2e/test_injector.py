"""What becomes of pods on a real API server: labels, annotations, dry runs, an injector that is away."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.injector.api import Object
from tests.e2e.cluster import Cluster
from tests.e2e.installed import ENABLED, RESTRICTED, TRIAL, Installed, has_sidecar, pod
from tests.e2e.versions import newest_only
from tests.injector.manifests import read
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)

BAD = "cache-sidecar.io/l1-size: 'much' must be a quantity, such as 250m or 320Mi"


def deployment(name: str, replicas: int = 1, **annotations: str) -> Object:
    labels = {"app": name}
    template = pod(labels=labels, **annotations)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }


async def stored(kube: Cluster, namespace: str, count: int, *, sidecars: bool) -> list[Object]:
    """Waits until a namespace has so many pods, all with a sidecar, or all without one; their kubelet says that they run."""

    async def are_there() -> list[Object] | None:
        await kube.start_pods(namespace)
        found = await kube.pods(namespace)
        return found if len(found) == count and all(has_sidecar(each) == sidecars for each in found) else None

    return await until(are_there)


async def test_one_label_and_the_pods_of_a_restricted_namespace_have_their_cache(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("one-label", RESTRICTED)
    await kube.make("one-label", deployment("web", 2))
    await stored(kube, "one-label", 2, sidecars=False)
    async with installed.running():
        await kube.kubectl("label", "namespace", "one-label", "cache-sidecar.io/inject=enabled")
        await kube.kubectl("rollout", "restart", "-n", "one-label", "deployment", "web")
        for each in await stored(kube, "one-label", 2, sidecars=True):
            assert each["spec"]["initContainers"][0]["restartPolicy"] == "Always"
            variables = {variable["name"] for variable in each["spec"]["containers"][0]["env"]}
            assert {"CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET"} <= variables
            assert each["metadata"]["labels"]["cache-sidecar.io/injected"] == "true"


ROLLOUT = """apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rollouts.argoproj.io}
spec:
  group: argoproj.io
  scope: Namespaced
  names: {kind: Rollout, plural: rollouts}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
LIMITS = """apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - type: Container
    default: {cpu: 500m, memory: 256Mi, ephemeral-storage: 1Gi}
    defaultRequest: {cpu: 100m, memory: 128Mi, ephemeral-storage: 64Mi}
    max: {cpu: "2", memory: 1Gi, ephemeral-storage: 2Gi}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec:
  hard:
    requests.cpu: "4"
    requests.memory: 8Gi
    requests.ephemeral-storage: 8Gi
    limits.cpu: "8"
    limits.memory: 16Gi
    limits.ephemeral-storage: 16Gi
"""


@newest_only
async def test_a_namespace_with_limits_and_a_quota_accepts_pods_and_rollouts(
    kube: Cluster, installed: Installed, tmp_path: Path
) -> None:
    await kube.namespace("limited", ENABLED | RESTRICTED)
    await kube.kubectl("apply", "-f", "-", stdin=ROLLOUT)
    await kube.kubectl("wait", "--for=condition=Established", "crd/rollouts.argoproj.io")
    await kube.kubectl("apply", "-n", "limited", "-f", "-", stdin=LIMITS)
    async with installed.running():
        await kube.make("limited", deployment("web", 2, ephemeral_storage_limit="256Mi", user_id="1000640000"))
        for each in await stored(kube, "limited", 2, sidecars=True):
            assert each["spec"]["initContainers"][0]["resources"]["limits"]["ephemeral-storage"] == "256Mi"
            assert each["spec"]["initContainers"][0]["securityContext"]["runAsUser"] == 1000640000
    template = pod("web")
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "web"},
        "spec": {"template": template},
    }
    path = tmp_path / "rollout.json"
    path.write_text(json.dumps(rollout))
    command = [sys.executable, "-m", "cache_sidecar", "inject", "-f", str(path)]
    made = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text, _ = await made.communicate()
    await kube.kubectl("apply", "-n", "limited", "-f", "-", stdin=text.decode())
    found = json.loads(await kube.kubectl("get", "-n", "limited", "rollouts.argoproj.io", "web", "-o", "json"))
    assert found["spec"]["template"]["spec"]["initContainers"][0]["name"] == "cache-sidecar"
    # Its pods, as its controller would make them.
    await kube.make(
        "limited",
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-rollout"}} | {"spec": found["spec"]["template"]["spec"]},
    )


@newest_only
async def test_the_pods_own_label_wins(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("labelled", ENABLED)
    await kube.namespace("unlabelled", {})
    async with installed.running():
        for namespace in ("labelled", "unlabelled"):
            for wish in ("enabled", "disabled"):
                await kube.make(namespace, pod(wish, labels={"cache-sidecar.io/inject": wish}))
            assert {each["metadata"]["name"]: has_sidecar(each) for each in await kube.pods(namespace)} == {
                "enabled": True,
                "disabled": False,
            }


async def test_a_bad_annotation_is_refused_with_its_line(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("refused", ENABLED | RESTRICTED)
    async with installed.running(**{"": {"bad_annotations": "deny"}}):
        done = await kube.run("apply", "-n", "refused", "-f", "-", stdin=json.dumps(pod(l1_size="much")))
        assert done.code == 1
        assert done.err.endswith(f'admission webhook "namespace.inject.cache-sidecar.io" denied the request: {BAD}\n')
        assert done.err.count("\n") == 1

        # Whoever makes a Deployment learns it from the ReplicaSet.
        await kube.make("refused", deployment("web", l1_size="much"))
        (event,) = await until(lambda: kube.events("refused", "FailedCreate"))
        assert event["message"].endswith(BAD)
        assert await kube.pods("refused") == []


@newest_only
async def test_or_it_costs_the_sidecar_only_and_a_dry_run_leaves_no_trace(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("skipped", ENABLED)
    async with installed.running():  # the overlay dev says so
        for name, dry_run in (("tried", ["--dry-run=server"]), ("made", [])):
            bad = json.dumps(pod(name, l1_size="much"))
            done = await kube.run("apply", "-n", "skipped", "-f", "-", *dry_run, stdin=bad)
            assert (done.code, done.err) == (0, f"Warning: no cache sidecar: {BAD}\n")
        # They are made in order: there would be one of the dry run by now.
        (event,) = await until(lambda: kube.events("skipped", "BadAnnotation"))
        assert event["involvedObject"]["name"] == "made"

        shown = await kube.kubectl(
            "apply", "-n", "skipped", "-f", "-", "--dry-run=server", "-o", "json", stdin=json.dumps(pod("good"))
        )
        assert has_sidecar(json.loads(shown))
        assert [each["metadata"]["name"] for each in await kube.pods("skipped")] == ["made"]


@newest_only
async def test_what_was_made_while_the_webhook_was_away_is_told(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("away", ENABLED | RESTRICTED)
    await kube.make("away", deployment("web"))
    (missing,) = await stored(kube, "away", 1, sidecars=False)
    async with installed.running(reconciler={"interval": 1}) as webhook:
        (event,) = await until(lambda: kube.events("away", "CacheSidecarMissing"))
        assert event["involvedObject"]["uid"] == missing["metadata"]["uid"]

        async def is_counted() -> bool:
            return 'pods_without_sidecar{namespace="away"} 1\n' in (await webhook.page("/metrics"))[1]

        await until(is_counted)
        assert [each["metadata"]["uid"] for each in await kube.pods("away")] == [missing["metadata"]["uid"]], "nothing more"


@newest_only
async def test_and_evicted_where_that_is_asked_for(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("evicted", RESTRICTED)
    await kube.make("evicted", deployment("web"))
    await kube.make("evicted", pod("alone"))
    await stored(kube, "evicted", 2, sidecars=False)
    await installed.apply("dev", "evict")
    try:
        async with installed.running(reconciler={"interval": 1, "evictions_per_minute": 600}):
            await kube.kubectl("label", "namespace", "evicted", "cache-sidecar.io/inject=enabled")

            async def are_replaced() -> bool:
                found = {each["metadata"]["name"]: has_sidecar(each) for each in await kube.pods("evicted")}
                # Nobody would make the one that is alone anew.
                return len(found) == 2 and found.pop("alone") is False and list(found.values()) == [True]

            await until(are_replaced)
    finally:
        await installed.reset()


@newest_only
async def test_with_fail_no_pod_is_made_without_its_sidecar(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("fails", ENABLED)
    await kube.namespace("fails-not", {})
    await installed.apply("ha")
    try:
        async with installed.running():
            # What the injector wrote into it stays, whoever applies it again.
            await installed.apply("ha")
            assert await installed.is_in_force()
            await kube.make("fails", pod("before"))
        done = await kube.run("apply", "-n", "fails", "-f", "-", stdin=json.dumps(pod("meanwhile")))
        assert done.code == 1
        assert 'failed calling webhook "namespace.inject.cache-sidecar.io"' in done.err
        # All others are made as ever: without the label, and where Kubernetes and the injector itself live.
        labelled = pod("labelled", labels=ENABLED)
        await kube.make("fails-not", pod("plain"))
        await kube.make("fails", pod("opted-out", labels={"cache-sidecar.io/inject": "disabled"}))
        for namespace in ("kube-system", "cache-sidecar"):
            await kube.usable(namespace)
            await kube.make(namespace, labelled)
        done = await kube.run("apply", "-n", "fails-not", "-f", "-", stdin=json.dumps(labelled))
        assert 'failed calling webhook "pod.inject.cache-sidecar.io"' in done.err
        async with installed.running():
            await kube.make("fails", pod("after"))
        assert {each["metadata"]["name"]: has_sidecar(each) for each in await kube.pods("fails")} == {
            "before": True,
            "opted-out": False,
            "after": True,
        }
        # When it is in the way.
        await kube.kubectl("delete", "mutatingwebhookconfiguration", "cache-sidecar-injector")
        await installed.seen()
        assert not has_sidecar(await installed.trial())
    finally:
        await installed.reset()


async def test_jobs_and_cron_jobs(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("jobs", ENABLED | RESTRICTED)
    template = {"spec": pod()["spec"] | {"restartPolicy": "Never"}}
    classic = template | {"metadata": {"annotations": {"cache-sidecar.io/mode": "classic"}}}

    def job(name: str, template: Object) -> Object:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}

    nightly: Any = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}},
    }
    async with installed.running():
        for thing in (job("import", template), job("classic", classic), nightly):
            await kube.make("jobs", thing)
        # As if the last New Year had been missed.
        path = "/apis/batch/v1/namespaces/jobs/cronjobs/nightly/status"
        await kube.api.patch(path, {"status": {"lastScheduleTime": "2024-12-31T12:00:00Z"}})
        for each in await stored(kube, "jobs", 3, sidecars=True):
            owner = each["metadata"]["labels"]["batch.kubernetes.io/job-name"]
            (app,) = [container for container in each["spec"]["containers"] if container["name"] == "web"]
            variables = {variable["name"] for variable in app["env"]}
            for name in ("CACHE_SIDECAR_QUIT_URL", "CACHE_SIDECAR_QUIT_TOKEN_FILE"):
                assert (name in variables) == (owner == "classic")
            assert ("initContainers" in each["spec"]) == (owner != "classic")


@newest_only
async def test_the_injector_may_do_what_it_does_and_no_more(kube: Cluster, installed: Installed) -> None:
    account = "system:serviceaccount:cache-sidecar:cache-sidecar-injector"

    async def may(*what: str) -> bool:
        return (await kube.run("auth", "can-i", *what, "--as", account)).out == "yes\n"

    assert await may("update", "secrets/cache-sidecar-injector-tls", "-n", "cache-sidecar")
    assert await may("patch", "mutatingwebhookconfigurations/cache-sidecar-injector")
    assert await may("create", "events", "-n", TRIAL)
    for what in (
        ["get", "secrets/another", "-n", "cache-sidecar"],
        ["list", "secrets", "-n", "cache-sidecar"],
        ["get", "secrets/cache-sidecar-injector-tls", "-n", TRIAL],
        ["patch", "mutatingwebhookconfigurations/another"],
        ["create", "pods", "-n", TRIAL],
        ["delete", "pods", "-n", TRIAL],
        ["create", "pods/eviction", "-n", TRIAL],
    ):
        assert not await may(*what), what


@newest_only
async def test_the_commands_do_the_same_to_what_kubectl_prints(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("commands", RESTRICTED)
    # Of which no controller runs here: it is the same until it is applied again.
    daemons = deployment("web") | {"kind": "DaemonSet"}
    del daemons["spec"]["replicas"]
    await kube.kubectl("apply", "-n", "commands", "-f", "-", stdin=json.dumps(daemons))
    printed = await kube.kubectl("get", "daemonset", "-n", "commands", "-o", "yaml")
    assert await cache_sidecar("check", printed) == "DaemonSet/web inject\n"
    injected = await cache_sidecar("inject", printed)
    kept = json.loads(await kube.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=injected))
    assert has_sidecar(kept["spec"]["template"])
    assert read(await cache_sidecar("uninject", injected)) == read(printed)


async def cache_sidecar(command: str, text: str) -> str:
    """Runs one of the commands on what it gets."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cache_sidecar", command, "-f", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    assert process.returncode == 0, err
    return out.decode()
