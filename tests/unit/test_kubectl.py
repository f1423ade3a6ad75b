"""`kubectl cache-sidecar`: what it asks kubectl, and what it makes of the answers."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar import __version__
from cache_sidecar.injector.apply import apply
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import VARIABLES
from cache_sidecar.kubectl import pods
from tests.support.kubectl_stand_in import Kubectl, run_plugin

NATIVE = (1, 29)
DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: shop, resourceVersion: "7"}  # by Anna
spec:
  template:
    spec: {containers: [{name: shop, image: shop:1}]}
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    return Kubectl(tmp_path)


def injected(name: str, *, version: str = __version__, state: dict[str, Any] | None = None, **options: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "shop", "ownerReferences": [{"uid": "1", "controller": True}]},
        "spec": {"containers": [{"name": "shop", "image": "shop:1"}]},
    }
    patch = consider(pod, Place("shop", enabled=True), Options.model_validate(options), NATIVE).patch
    apply(pod, patch)
    notes = pod["metadata"]["annotations"]
    notes["cache-sidecar.io/status"] = json.dumps(json.loads(notes["cache-sidecar.io/status"]) | {"version": version})
    mine = {"name": "cache-sidecar", "restartCount": 0} | ({"ready": True} if state is None else state)
    pod["status"] = {"phase": "Running", "initContainerStatuses": [mine]}
    return pod


def test_it_is_installed_where_kubectl_looks_for_it() -> None:
    (found,) = entry_points(group="console_scripts", name="kubectl-cache_sidecar")
    assert found.value == "cache_sidecar.__main__:main_of_plugin"


async def test_sidecars_are_listed_and_the_outdated_and_failing_ones_named(kubectl: Kubectl) -> None:
    waiting = {"ready": False, "restartCount": 7, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    other = {"metadata": {"name": "d", "namespace": "shop"}, "spec": {"containers": []}}
    found = [injected("a"), injected("b", version="0.0.9"), injected("c", state=waiting), other]
    kubectl.answer("get pods", {"items": found})
    done = await kubectl.plugin("status", "-n", "shop", "--context", "east")
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "namespace  pod  version  state             restarts",
        f"shop       a    {__version__:7}  ready                    0",
        "shop       b    0.0.9    ready                    0",
        f"shop       c    {__version__:7}  CrashLoopBackOff         7",
        "FAILS     1 of 3 do not serve: shop/c",
        f"OUTDATED  1 of 3 are not {__version__}: shop/b",
    ]
    assert kubectl.calls == [("--namespace=shop --context=east get pods -l cache-sidecar.io/injected=true -o json", "")]
    done = await kubectl.plugin("status", "-A", "--json", "--expect", "0.0.9")
    assert [(each["pod"], each["outdated"]) for each in json.loads(done.out)] == [("a", True), ("b", False), ("c", True)]
    assert kubectl.calls[-1][0] == "get pods -l cache-sidecar.io/injected=true -A -o json"


@pytest.mark.parametrize(
    ("phase", "mine", "state"),
    [
        ("Pending", {}, "not started"),
        ("Running", {"state": {"running": {}}}, "starting"),
        ("Running", {"state": {"terminated": {"reason": "OOMKilled"}}}, "OOMKilled"),
        ("Running", {"state": {"running": {}}, "ready": True}, "ready"),
        ("Succeeded", {"state": {"terminated": {"reason": "Completed"}}}, "completed"),
    ],
)
def test_the_state_of_a_sidecar(phase: str, mine: dict[str, Any], state: str) -> None:
    pod = injected("a", state=mine)
    pod["status"]["phase"] = phase
    (found,) = pods.read({"items": [pod]})
    assert (found.state, found.fails) == (state, state not in {"ready", "completed"})


@pytest.mark.parametrize("annotation", ["", "[]", '{"version": 1}', "[" * 100_000])
def test_an_annotation_that_says_nothing_is_no_version(annotation: str) -> None:
    pod = injected("a")
    pod["metadata"]["annotations"]["cache-sidecar.io/status"] = annotation
    (found,) = pods.read(pod)
    assert found.version == "?"


async def test_a_workload_is_printed_with_its_sidecar(kubectl: Kubectl) -> None:
    kubectl.answer("get deployment/shop", DEPLOYMENT)
    kubectl.answer("replace", "deployment.apps/shop replaced\n")
    done = await kubectl.plugin("inject", "deployment/shop")
    assert (done.code, done.err) == (0, "Deployment/shop inject\n")
    assert "# by Anna" in done.out
    assert all(name in done.out for name in VARIABLES[:2])
    applied = await kubectl.plugin("inject", "deployment/shop", "--apply")
    assert applied == (0, "Deployment/shop inject\ndeployment.apps/shop replaced\n", "")
    assert kubectl.calls[-1] == ("replace -f -", done.out)


async def test_a_workload_that_is_denied_is_not_applied(kubectl: Kubectl) -> None:
    bad = DEPLOYMENT.replace("    spec:", "    metadata: {annotations: {cache-sidecar.io/port: many}}\n    spec:")
    kubectl.answer("get deployment/shop", bad)
    done = await kubectl.plugin("inject", "deployment/shop", "--apply")
    assert done.code == 1
    assert done.out.startswith("Deployment/shop deny cache-sidecar.io/port: 'many' must be a port")
    assert [call for call, _ in kubectl.calls] == ["get deployment/shop -o yaml"]


@pytest.mark.parametrize(("label", "line"), [("enabled", "inject"), ("disabled", "skip not_enabled: ")])
async def test_a_namespace_is_checked_by_its_label(kubectl: Kubectl, label: str, line: str) -> None:
    metadata = {"name": "shop", "labels": {"cache-sidecar.io/inject": label}}
    kubectl.answer("get namespace shop", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    kubectl.answer("get deployments,", DEPLOYMENT)
    done = await kubectl.plugin("check", "-n", "shop")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Deployment/shop {line}")


async def test_logs_are_kubectls(kubectl: Kubectl) -> None:
    kubectl.answer("logs", "a line\n", err="a warning\n", code=3)
    assert await kubectl.plugin("logs", "web-1", "-n", "shop", "-f", "--tail", "9") == (3, "a line\n", "a warning\n")
    await kubectl.plugin("logs", "--since", "10m", "-p")
    assert [call for call, _ in kubectl.calls] == [
        "--namespace=shop logs web-1 -c cache-sidecar --follow --tail=9",
        "logs -l cache-sidecar.io/injected=true --prefix --max-log-requests=100 -c cache-sidecar --previous --since=10m",
    ]


@pytest.mark.parametrize(
    "command",
    [["status"], ["status", "a"], ["check"], ["inject", "deployment/a"], ["top", "a"], ["drain", "a"], ["logs"]],
    ids=" ".join,
)
async def test_without_kubectl_it_says_so(command: list[str], tmp_path: Path) -> None:
    done = await run_plugin(*command, path=str(tmp_path))
    advice = "https://kubernetes.io/docs/tasks/tools/"
    assert done == (64, "", f"cache-sidecar: kubectl is not installed, or not in PATH: {advice}\n")


@pytest.mark.parametrize(
    "command", [["status"], ["status", "a"], ["check"], ["inject", "deployment/a"], ["top", "a"], ["drain", "a"]], ids=" ".join
)
async def test_what_is_forbidden_is_said_in_kubectls_words(command: list[str], kubectl: Kubectl) -> None:
    said = 'Error from server (Forbidden): pods is forbidden: User "eve" cannot list resource "pods"'
    kubectl.answer("get", err=f"E0101 00:00:00.000000 1 memcache.go:265] noise\n{said}\n", code=1)
    assert await kubectl.plugin(*command) == (1, "", f"cache-sidecar: {said}\n")


async def test_a_port_that_cannot_be_forwarded_is_said_in_kubectls_words(kubectl: Kubectl) -> None:
    kubectl.answer("get pod", injected("a"))
    said = "error: unable to forward port because pod is not running. Current status=Pending"
    kubectl.answer("port-forward", err=f"{said}\n", code=1)
    assert await kubectl.plugin("top", "a") == (1, "", f"cache-sidecar: {said}\n")
    assert kubectl.calls[-1][0] == "port-forward --address=127.0.0.1 pod/a :50051"


async def test_a_sidecar_without_a_port_cannot_be_asked_from_here(kubectl: Kubectl) -> None:
    kubectl.answer("get pod", injected("a", port="none"))
    said = "the sidecar of pod a has only a socket: ask it inside, with kubectl exec"
    assert await kubectl.plugin("status", "a") == (64, "", f"cache-sidecar: {said}\n")


async def test_a_pod_that_nothing_would_create_again_is_not_evicted(kubectl: Kubectl) -> None:
    alone = injected("a")
    del alone["metadata"]["ownerReferences"]
    kubectl.answer("get pods", alone)
    done = await kubectl.plugin("drain", "a")
    assert (done.code, done.out) == (64, "")
    assert done.err == "cache-sidecar: pod a has no controller that would create it again: delete it yourself\n"
    assert len(kubectl.calls) == 1
