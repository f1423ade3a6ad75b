"""Reviews and their answers, without HTTP."""

import copy
from typing import Any

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector.config import InjectorConfig
from cache_sidecar.injector.review import Answer, Context, answer
from tests.injector.reviews import POD, patched, review

NOW = 1_700_000_000.0
CONTEXT = Context(InjectorConfig(), (1, 34), own_namespace="cache-sidecar", enabled=True)
BAD = copy.deepcopy(POD) | {"metadata": {"generateName": "web-", "annotations": {"cache-sidecar.io/port": "80"}}}
LINE = "cache-sidecar.io/port: '80' must be a port from 1024 to 65535, or none"


def ask(reviewed: Any, **context: Any) -> Answer:
    return answer(reviewed, CONTEXT._replace(**context), now=NOW)


def test_a_pod_gets_a_patch() -> None:
    found = ask(review())
    assert (found.outcome, found.reason, found.event) == ("injected", "", None)
    assert {key: value for key, value in found.body["response"].items() if key != "patch"} == {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "allowed": True,
        "patchType": "JSONPatch",
    }
    assert patched(found.body)["spec"]["initContainers"][0]["name"] == "cache-sidecar"


def test_the_second_call_of_reinvocation_has_nothing_to_add() -> None:
    again = ask(review(patched(ask(review()).body)))
    assert (again.outcome, again.body["response"]) == ("injected", {"uid": review()["request"]["uid"], "allowed": True})


def test_a_skip_says_why_to_the_audit_log() -> None:
    found = ask(review(namespace="kube-system"))
    assert (found.outcome, found.reason) == ("skipped", "system_namespace")
    assert found.body["response"] == {
        "uid": review()["request"]["uid"],
        "allowed": True,
        "auditAnnotations": {"skipped": "system_namespace"},
    }


def test_the_namespace_of_the_request_counts_not_what_the_pod_says() -> None:
    pod = copy.deepcopy(POD)
    pod["metadata"]["namespace"] = "kube-system"
    assert ask(review(pod)).outcome == "injected"
    assert ask(review(namespace="cache-sidecar")).reason == "own_namespace"


def test_where_the_selector_is_the_pods_own_label_the_pod_has_to_have_it() -> None:
    assert ask(review(), enabled=False).reason == "not_enabled"
    pod = copy.deepcopy(POD)
    pod["metadata"]["labels"]["cache-sidecar.io/inject"] = "enabled"
    assert ask(review(pod), enabled=False).outcome == "injected"


@pytest.mark.parametrize(
    "request_",
    [{"operation": "UPDATE"}, {"resource": {"resource": "deployments"}}, {"subResource": "exec"}, {"resource": None}],
)
def test_what_is_no_new_pod_is_let_through(request_: dict[str, Any]) -> None:
    found = ask(review(**request_))
    assert (found.outcome, found.body["response"]) == ("skipped", {"uid": review()["request"]["uid"], "allowed": True})


def test_a_bad_annotation_denies_with_its_line() -> None:
    found = ask(review(BAD))
    assert (found.outcome, found.reason, found.event) == ("denied", "bad_annotation", None)
    assert found.body["response"]["allowed"] is False
    assert found.body["response"]["status"] == {"code": 422, "reason": "Invalid", "message": LINE}


def test_or_skips_with_a_warning_and_an_event_about_the_controller() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u", "controller": True}
    pod = copy.deepcopy(BAD)
    pod["metadata"]["ownerReferences"] = [{"kind": "Other", "controller": False}, owner]
    config = InjectorConfig(bad_annotations="skip")
    found = ask(review(pod), config=config)
    assert (found.outcome, found.reason) == ("skipped", "bad_annotation")
    assert found.body["response"]["warnings"] == [f"no cache sidecar: {LINE}"]
    assert "patch" not in found.body["response"]
    made = found.event
    assert made
    assert made["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-1",
        "uid": "u",
        "namespace": "shop",
    }
    assert (made["reason"], made["message"], made["lastTimestamp"]) == (
        "BadAnnotation",
        f"no cache sidecar: {LINE}",
        "2023-11-14T22:13:20Z",
    )
    assert ask(review(pod), config=config).event == made, "so that it is counted"
    assert ask(review(pod, dryRun=True), config=config).event is None
    alone = ask(review(BAD), config=config).event
    assert alone
    assert alone["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "name": "web-", "namespace": "shop"}
    assert alone["metadata"]["name"] != made["metadata"]["name"]


@pytest.mark.parametrize(
    "namespace",
    ["shop/pods/web/eviction", "../secrets", "Shop", "-shop", "shop-", "a" * 64, "shop\n", "shop.example", "sh%6fp", "", None],
)
@pytest.mark.parametrize("config", [InjectorConfig(), InjectorConfig(bad_annotations="skip")])
def test_a_namespace_must_be_a_dns_label(namespace: str | None, config: InjectorConfig) -> None:
    with pytest.raises(InputError, match=r"request\.namespace: .* must be a DNS label \(RFC 1123\)") as raised:
        ask(review(BAD, namespace=namespace), config=config)
    assert "\n" not in str(raised.value)
    if namespace:
        with pytest.raises(InputError):
            ask(review(operation="UPDATE", namespace=namespace), config=config)


def test_every_dns_label_is_a_namespace() -> None:
    for namespace in ("a", "0", "a-0", "a" * 63):
        assert ask(review(namespace=namespace)).outcome == "injected"


def test_names_that_kubernetes_would_not_accept_do_not_fill_the_queue_of_events() -> None:
    owner = {"apiVersion": "v1", "kind": ["x"], "name": "x" * 1_000_000, "uid": 5, "controller": True}
    config = InjectorConfig(bad_annotations="skip")
    for metadata in ({"ownerReferences": [owner]}, {"name": "x" * 1_000_000}):
        made = ask(review(BAD | {"metadata": BAD["metadata"] | metadata}), config=config).event
        assert len(str(made)) < 2000


@pytest.mark.parametrize("pod", [5, [], {}, {"spec": 5}, {"spec": {"containers": [5]}}, {"metadata": [], "spec": {}}])
def test_what_is_no_pod_is_denied(pod: Any) -> None:
    found = ask(review(pod))
    assert (found.outcome, found.reason, found.body["response"]["allowed"]) == ("denied", "no_pod", False)
    assert found.body["response"]["status"]["message"]


@pytest.mark.parametrize(
    ("reviewed", "line"),
    [
        (5, "the body must be an AdmissionReview"),
        ({}, "the body must be an AdmissionReview"),
        (review() | {"apiVersion": "admission.k8s.io/v1beta1"}, "apiVersion must be admission.k8s.io/v1"),
        (review() | {"request": 5}, "request.uid must be a string"),
        (review() | {"request": {}}, "request.uid must be a string"),
        (review(uid=5), "request.uid must be a string"),
        (review(namespace=5), "request.namespace must be a string"),
        (review(resource="pods"), "request.resource must be an object"),
        (review(subResource=[]), "request.subResource must be a string"),
    ],
)
def test_what_is_no_review_is_refused(reviewed: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        ask(reviewed)


@pytest.mark.parametrize(
    "path", ["/run/cache-sidecar", "//run/cache-sidecar/", "/run/./cache-sidecar", "/run/x/../cache-sidecar"]
)
def test_every_spelling_of_the_mount_path_is_taken(path: str) -> None:
    pod = copy.deepcopy(POD)
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "x", "mountPath": path}]
    assert ask(review(pod)).reason == "mount_path_taken"


@pytest.mark.parametrize("name", ["a..b", "a.-b", "a-.b", ".a", "a.", "a" * 254])
def test_a_name_that_no_object_can_have_is_refused_here(name: str) -> None:
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {"cache-sidecar.io/secret": name}
    assert ask(review(pod)).reason == "bad_annotation"


def test_a_policy_of_one_key_with_thousands_of_parts_is_not_parsed() -> None:
    """tomllib would take seconds for each review, and the API server waits for a few."""
    pod = copy.deepcopy(POD)
    pod["metadata"]["annotations"] = {"cache-sidecar.io/policy": "a" + ".a" * 8_000 + " = 1"}
    assert ask(review(pod)).body["response"]["status"]["message"].endswith("a line has more than 100 dots")
