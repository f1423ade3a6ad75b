"""What is in k8s: valid for the oldest and the newest Kubernetes, restricted, limited, and in step with the program."""

import re
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

from cache_sidecar import __version__
from cache_sidecar.injector.config import NEWEST, OLDEST, InjectorConfig
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import SYSTEM_NAMESPACES, Place
from cache_sidecar.injector.options import Options
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Process
from tests.injector.manifests import ALL, K8S, Object, configuration, is_named, read, rendered
from tests.injector.reviews import POD
from tests.support import acl

OURS = ["base", "dev", "ha", "evict", "cert-manager", "client-certificate", "both", "openshift"]


def pod_specs(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for thing in objects:
        template = thing.get("spec", {}).get("template", {})
        if "containers" in template.get("spec", {}):
            yield f"{thing['kind']}/{thing['metadata']['name']}", template


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_what_kubernetes_publishes(name: str, version: tuple[int, int]) -> None:
    for thing in rendered(name):
        if not thing["apiVersion"].startswith("cert-manager.io/"):
            kubernetes_validate.validate(thing, f"{version[0]}.{version[1]}", strict=True)


@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_restricted_limited_and_watched(name: str) -> None:
    for owner, template in pod_specs(rendered(name)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, owner
        if name == "openshift":  # the namespace's range decides
            assert not spec["securityContext"].keys() & {"runAsUser", "runAsGroup", "fsGroup"}, owner
        else:
            assert spec["securityContext"]["runAsUser"] > 0, owner
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert spec.get("automountServiceAccountToken") is False or owner == "Deployment/cache-sidecar-injector"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, owner
            assert context["capabilities"] == {"drop": ["ALL"]}, owner
            assert context["readOnlyRootFilesystem"] is True, owner
            assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert ":" in container["image"], owner
            if container.get("ports"):
                assert container["livenessProbe"], owner
                assert container["readinessProbe"], owner


@pytest.mark.parametrize("name", ALL)
def test_selectors_find_what_they_are_for(name: str) -> None:
    objects = rendered(name)
    labels = [template["metadata"]["labels"] for _, template in pod_specs(objects)]
    selectors = [thing["spec"]["selector"] for thing in objects if thing["kind"] == "Service"]
    selectors += [
        thing["spec"]["selector"]["matchLabels"]
        for thing in objects
        if thing["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget"}
    ]
    selectors += [thing["spec"]["podSelector"].get("matchLabels", {}) for thing in objects if thing["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector


@pytest.mark.parametrize("name", OURS)
def test_the_configuration_is_one(name: str, tmp_path: Path) -> None:
    name_of_both = "cache-sidecar-injector"
    loaded = configuration(one(name, "Deployment", name_of_both), one(name, "ConfigMap", name_of_both), tmp_path)
    assert loaded.sidecar.image == f"cache-sidecar:{__version__}"
    assert loaded.bad_annotations == ("skip" if name == "dev" else "deny")
    assert loaded.certificates.source == ("files" if name in {"cert-manager", "both"} else "self")
    assert loaded.reconciler.mode == ("evict" if name in {"evict", "both"} else "report")
    assert bool(loaded.server.client_ca_file) == (name == "client-certificate")
    assert loaded.sidecar.user_id == ("namespace" if name == "openshift" else "65532")


def test_the_file_of_client_cas_is_mounted() -> None:
    spec = one("client-certificate", "Deployment", "cache-sidecar-injector")["spec"]["template"]["spec"]
    text = one("client-certificate", "ConfigMap", "cache-sidecar-injector")["data"]["clients.toml"]
    (mount,) = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "clients"]
    assert f'client_ca_file = "{mount["mountPath"]}/ca.crt"' in text


@pytest.mark.parametrize("name", OURS)
def test_every_rule_of_the_network_names_its_ports_and_all_but_the_api_servers_also_its_peers(name: str) -> None:
    for policy in (thing for thing in rendered(name) if thing["kind"] == "NetworkPolicy"):
        spec, called = policy["spec"], policy["metadata"]["name"]
        for kind, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(kind, []):
                assert rule["ports"], called
                ports = {port["port"] for port in rule["ports"]}
                assert rule.get(peers) or ports <= {8443, 443, 6443, 5432, 6379}, called
    dns = one(name, "NetworkPolicy", "dns")["spec"]["egress"][0]["to"]
    assert [peer.keys() for peer in dns] == [{"namespaceSelector", "podSelector"}]


@pytest.mark.parametrize("name", OURS)
def test_names_in_the_manifests_are_those_of_the_program(name: str) -> None:
    defaults = InjectorConfig()
    namespace = one(name, "Namespace", "cache-sidecar")["metadata"]["name"]
    assert one(name, "Service", defaults.server.service)["metadata"]["namespace"] == namespace
    rights = one(name, "Role", "cache-sidecar-injector")["rules"]
    secrets = [rule["resourceNames"] for rule in rights if rule["resources"] == ["secrets"] and "resourceNames" in rule]
    assert secrets == ([] if name in {"cert-manager", "both"} else [[defaults.certificates.secret]])
    hooks = one(name, "MutatingWebhookConfiguration", defaults.certificates.webhook)["webhooks"]
    assert [hook["clientConfig"]["service"]["path"] for hook in hooks] == ["/inject/namespace", "/inject/pod"]
    assert {hook["failurePolicy"] for hook in hooks} == {"Ignore" if name in {"base", "dev"} else "Fail"}
    for hook in hooks:
        assert (hook["sideEffects"], hook["reinvocationPolicy"]) == ("NoneOnDryRun", "IfNeeded")
        skipped = next(
            each for each in hook["namespaceSelector"]["matchExpressions"] if each["key"] == "kubernetes.io/metadata.name"
        )
        assert set(skipped["values"]) == SYSTEM_NAMESPACES | {namespace}


def one(name: str, kind: str, called: str) -> Object:
    (found,) = [thing for thing in rendered(name) if is_named(thing, kind, called)]
    return found


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for expression in selector["matchExpressions"]:
        value = labels.get(expression["key"])
        if (value in expression["values"]) != (expression["operator"] == "In"):
            return False
    return True


@pytest.mark.parametrize("namespace_label", [None, "enabled", "disabled", "nonsense"])
@pytest.mark.parametrize("pod_label", [None, "enabled", "disabled"])
def test_one_webhook_at_most_is_called_and_the_pods_own_label_wins(namespace_label: str | None, pod_label: str | None) -> None:
    def labelled(value: str | None) -> dict[str, str]:
        return {} if value is None else {"cache-sidecar.io/inject": value}

    hooks = one("base", "MutatingWebhookConfiguration", "cache-sidecar-injector")["webhooks"]
    namespace = {"kubernetes.io/metadata.name": "shop"} | labelled(namespace_label)
    called = [
        hook["clientConfig"]["service"]["path"]
        for hook in hooks
        if matches(hook["namespaceSelector"], namespace) and matches(hook["objectSelector"], labelled(pod_label))
    ]
    is_wanted = pod_label == "enabled" or (pod_label is None and namespace_label == "enabled")
    assert len(called) == is_wanted
    for path in called:
        pod = POD | {"metadata": {"labels": labelled(pod_label)}}
        place = Place("shop", enabled=path == "/inject/namespace")
        assert consider(pod, place, Options(), NEWEST).patch, "the injector agrees"


def test_the_version_is_the_programs() -> None:
    texts = [path.read_text() for path in K8S.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    versions = {version for text in texts for version in re.findall(r"cache-sidecar:(\d[\w.]*\d)", text)}
    # A dot in its name would be in the way of its pods' host names.
    jobs = {thing["metadata"]["name"] for thing in rendered("base") if thing["kind"] == "Job"}
    assert (versions, jobs) == ({__version__}, {f"cache-sidecar-migrate-{__version__.replace('.', '-')}"})
    assert f'image.version="{__version__}"' in (K8S / "image" / "Dockerfile").read_text()


def test_the_acl_of_the_example_is_the_one_that_is_tested() -> None:
    secret = one("redis-cluster", "Secret", "valkey")["stringData"]["users.acl"]
    assert acl.line().replace(">PASSWORD", ">change-me") in secret.splitlines()


def test_the_shop_gets_its_sidecar() -> None:
    deployment = one("shop", "Deployment", "shop")
    place = Place("shop", enabled=True, own_namespace="cache-sidecar")
    verdict = consider(deployment["spec"]["template"], place, Options(), NEWEST)
    assert (verdict.reason, bool(verdict.patch)) == (None, True)


def test_the_shop_scales_on_metrics_that_the_adapter_makes_of_the_sidecar_s() -> None:
    (values,) = read((K8S / "examples" / "autoscaling" / "prometheus-adapter.yaml").read_text())
    made = {rule["name"]["as"]: rule for rule in values["rules"]["custom"]}
    metrics = one("shop-autoscaling", "HorizontalPodAutoscaler", "shop")["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"} == set(made)
    served = {metric.sample_name for metric in definitions.of(Process.SIDECAR)}
    for rule in made.values():
        series, _, labels = rule["seriesQuery"].partition("{")
        assert set(rule["resources"]["overrides"]) == set(re.findall(r"(\w+)!=", labels))
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        assert query.count("<<.LabelMatchers>>") == query.count("<<.GroupBy>>") > 0
        assert set(re.findall(r"cache_sidecar_\w+", query)) <= served
        assert not query.replace("<<.LabelMatchers>>", "").replace("<<.GroupBy>>", "").count("<<")
