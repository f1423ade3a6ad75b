"""The Helm chart: what the manifests are, whatever the values; taken by the API server; upgraded under a running injector."""

import asyncio
import contextlib
import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import kubernetes_validate
import pytest

from cache_sidecar.injector.config import NEWEST, OLDEST
from tests.e2e.charts import CHART, OTHERS, OVERLAYS, Values, comparable, helm
from tests.e2e.cluster import Cluster
from tests.e2e.installed import INJECTOR, NAMESPACE, WEBHOOKS, Installed
from tests.e2e.test_manifests import kustomized
from tests.e2e.versions import newest_only
from tests.injector.manifests import K8S, Object, read, render, rendered

pytestmark = pytest.mark.timeout(300)

RELEASE = "cache-sidecar"


def templated(folder: Path, values: Values) -> list[Object]:
    done = helm(folder, "template", RELEASE, CHART, values=values)
    assert (done.returncode, done.stderr) == (0, "")
    return read(done.stdout)


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    return {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == kind}


@pytest.mark.parametrize("name", OVERLAYS)
def test_helm_renders_what_kustomize_renders(name: str, tmp_path: Path) -> None:
    made = comparable(templated(tmp_path, OVERLAYS[name]), tmp_path)
    assert made == comparable(read(kustomized(name, tmp_path)), tmp_path)


def test_the_default_configuration_is_the_bases_to_the_letter(tmp_path: Path) -> None:
    (made,) = named(templated(tmp_path, {}), "ConfigMap").values()
    assert made["data"] == named(rendered("base"), "ConfigMap")[INJECTOR]["data"]


def test_monitoring_is_what_kustomize_applies(tmp_path: Path) -> None:
    made = comparable(templated(tmp_path, {"monitoring": {"enabled": True}}), tmp_path)
    expected = comparable(rendered("base") + render(K8S / "monitoring"), tmp_path)
    # As kustomize makes a ConfigMap of files, which `render` leaves out.
    dashboards = expected["ConfigMap/cache-sidecar-dashboards"]
    dashboards["metadata"]["labels"] = {"grafana_dashboard": "1"}
    dashboards["data"] = {Path(name).name: text for name, text in dashboards["data"].items()}
    assert made == expected


@pytest.mark.parametrize("values", [*OVERLAYS.values(), OTHERS, {"monitoring": {"enabled": True}}])
def test_helm_lints_it(values: Values, tmp_path: Path) -> None:
    done = helm(tmp_path, "lint", "--strict", "--quiet", CHART, values=values)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_with_other_values_objects_are_what_kubernetes_publishes(version: tuple[int, int], tmp_path: Path) -> None:
    made = templated(tmp_path, OTHERS)
    for thing in made:
        kubernetes_validate.validate(thing, f"{version[0]}.{version[1]}", strict=True)
    is_somewhere = {thing["metadata"].get("namespace") for thing in made}
    assert is_somewhere == {"caches", None}
    # The label of who it is, and the names of the webhook's objects, are the same in every namespace.
    assert '"cache-sidecar"' not in json.dumps([thing for thing in made if thing["kind"].endswith("Configuration")]).replace(
        '"app.kubernetes.io/part-of", "operator": "NotIn", "values": ["cache-sidecar"]', ""
    )


def test_every_region_has_a_relay_of_its_own(tmp_path: Path) -> None:
    made = templated(tmp_path, OTHERS)
    relays = {name: thing for name, thing in named(made, "Deployment").items() if name != INJECTOR}
    assert relays.keys() == {"cache-sidecar-relay-eu", "cache-sidecar-relay-us"}
    found = {}
    for name, thing in relays.items():
        template = thing["spec"]["template"]
        selector = thing["spec"]["selector"]["matchLabels"]
        assert selector.items() <= template["metadata"]["labels"].items()
        assert named(made, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == selector
        (container,) = template["spec"]["containers"]
        assert {"name": "CACHE_SIDECAR_REGION", "value": selector["cache-sidecar.io/region"]} in container["env"]
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in template["spec"]["volumes"]}
        found[selector["cache-sidecar.io/region"]] = (container["envFrom"][0]["configMapRef"]["name"], secrets["files"])
    assert found == {
        "eu": ("cache-sidecar-relay-eu", "cache-sidecar-relay-eu"),
        "us": ("relay-of-us", "passwords-of-us"),
    }
    config_maps = named(made, "ConfigMap")
    assert config_maps["cache-sidecar-relay-eu"]["data"] == {"CACHE_SIDECAR_REDIS_NODES": "redis.eu:6379"}
    assert "relay-of-us" not in config_maps, "it is there already"


def test_the_injector_reads_its_values(tmp_path: Path) -> None:
    loaded = comparable(templated(tmp_path, OTHERS), tmp_path)["ConfigMap/cache-sidecar-injector"]
    assert loaded.sidecar.image == f"registry.example/shop/cache-sidecar@sha256:{'0' * 64}"
    assert loaded.sidecar.port == "50099"
    assert tomllib.loads(loaded.sidecar.policy) == {"product": {"l2_ttl": 600}}
    assert (loaded.server.log_level, loaded.certificates.lifetime) == ("debug", 86400)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"injector": {"replica": 2}}, "replica"),
        ({"sidecar": {"memory-limit": "1Gi"}}, "memory-limit"),
        ({"sidecar": {"mode": "nativ"}}, "'auto', 'native', 'classic'"),
        ({"injector": {"failurePolicy": "fail"}}, "'Ignore', 'Fail'"),
        ({"relay": {"regions": [{"name": "EU"}]}}, "does not match pattern"),
        ({"relay": {"regions": []}}, "minItems"),
        ({"migrate": {"settings": {"POSTGRES": "x"}}}, "does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused(values: Values, said: str, tmp_path: Path) -> None:
    done = helm(tmp_path, "template", RELEASE, CHART, values=values)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


async def test_the_api_server_takes_other_values(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    await kube.namespace("caches", {})
    made = await asyncio.to_thread(templated, tmp_path, OTHERS)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    await kube.kubectl("apply", "--dry-run=server", "-f", "-", stdin=listed)


@newest_only
async def test_a_release_is_upgraded_while_its_injector_runs(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    path = f"{WEBHOOKS}/{INJECTOR}"
    # The namespace is there, and stays: the controller that empties namespaces does not run.
    values = {"namespace": {"create": False}, "migrate": {"enabled": False}}
    async with _released(kube, installed, tmp_path, values):
        async with installed.running():
            before = (await kube.api.get(path))["webhooks"]
            assert all(hook["clientConfig"]["caBundle"] for hook in before)
            assert {hook["failurePolicy"] for hook in before} == {"Ignore"}
            changed = {
                "injector": {"failurePolicy": "Fail", "excludedNamespaces": ["legacy"]},
                "sidecar": {"log_level": "debug"},
            }
            await _run(kube, tmp_path, "upgrade", RELEASE, str(CHART), values=values | changed)
            after = (await kube.api.get(path))["webhooks"]
            for old, new in zip(before, after, strict=True):
                bundles = [hook["clientConfig"]["caBundle"] for hook in (old, new)]
                assert bundles[0] == bundles[1], "whom the API server trusts stays what the injector said"
                assert new["failurePolicy"] == "Fail"
                assert "legacy" in new["namespaceSelector"]["matchExpressions"][1]["values"]
            await _redirect(kube, installed)
            await installed.seen()
            assert await installed.is_in_force()
        assert (await installed.sections())["sidecar"]["log_level"] == "debug"


async def _redirect(kube: Cluster, installed: Installed) -> None:
    """Has the API server call the injector at the port on which it listens here."""
    changes = {"clientConfig/service/port": installed.port, "timeoutSeconds": 30}
    hooks = [
        {"op": "replace", "path": f"/webhooks/{index}/{path}", "value": value}
        for index in (0, 1)
        for path, value in changes.items()
    ]
    await kube.api.patch(f"{WEBHOOKS}/{INJECTOR}", hooks)


@contextlib.asynccontextmanager
async def _released(kube: Cluster, installed: Installed, folder: Path, values: Values) -> AsyncIterator[None]:
    """Installs the chart instead of the overlay, and makes its Service one that is reached here."""
    helm(folder, "version")  # where there is none, the test is skipped before it has taken the overlay away
    ours = [thing for thing in rendered("dev") if thing["kind"] != "Namespace"]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": ours})
    await kube.kubectl("delete", "--wait=false", "-f", "-", stdin=listed)
    address = installed.address
    try:
        said = await _run(kube, folder, "install", RELEASE, str(CHART), values=values)
        assert "kubectl label namespace NAMESPACE cache-sidecar.io/inject=enabled" in said
        service = f"/api/v1/namespaces/{NAMESPACE}/services/{INJECTOR}"
        # One more: ports are merged by their numbers.
        port = [{"op": "add", "path": "/spec/ports/-", "value": {"name": "here", "port": installed.port}}]
        installed.address = (await kube.api.patch(service, port))["spec"]["clusterIP"]
        await _redirect(kube, installed)
        await installed.seen()
        yield
    finally:
        await _run(kube, folder, "uninstall", RELEASE)
        installed.address = address
        await installed.reset()


async def _run(kube: Cluster, folder: Path, *arguments: str, values: Values | None = None) -> str:
    """Runs helm on the cluster, for the namespace, where it has to succeed."""
    options = ("--kubeconfig", kube.folder / "kubeconfig", "-n", NAMESPACE)
    done = await asyncio.to_thread(helm, folder, *arguments, *options, values=values)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
