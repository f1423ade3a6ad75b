"""Patches of any pod, and of pods that others change as well."""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import annotations, apply, pods
from cache_sidecar.injector.config import NEWEST, InjectorConfig
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.container import GROUP, NAME, SOCKET, SOCKET_VOLUME
from cache_sidecar.injector.decide import Place, Reason
from cache_sidecar.injector.options import Options

PLACE = Place("shop", enabled=True)
OPTIONS = Options()


def patched(pod: dict[str, Any], version: tuple[int, int] = NEWEST, options: Options = OPTIONS) -> dict[str, Any]:
    return jsonpatch.apply_patch(pod, consider(pod, PLACE, options, version).patch)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


NAMES = st.sampled_from(["a", "b", "c", "CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET"])
VARIABLES = st.lists(
    st.fixed_dictionaries({"name": NAMES, "value": st.just("x")}), max_size=3, unique_by=lambda one: one["name"]
)
MOUNTS = st.lists(st.fixed_dictionaries({"name": st.just("data"), "mountPath": st.sampled_from(["/a", "/b"])}), max_size=2)
PORTS = st.lists(st.fixed_dictionaries({"containerPort": st.integers(50050, 50053)}), max_size=3)


def containers(prefix: str, least: int) -> st.SearchStrategy[Any]:
    one = st.fixed_dictionaries(
        {"image": st.just("shop/app:1")},
        optional={"env": optional(VARIABLES), "volumeMounts": optional(MOUNTS), "ports": optional(PORTS)},
    )
    return st.lists(one, min_size=least, max_size=3).map(
        lambda made: [{"name": f"{prefix}{index}"} | each for index, each in enumerate(made)]
    )


PODS = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {"containers": containers("app", 1)},
            optional={
                "initContainers": optional(containers("init", 0)),
                "volumes": optional(st.lists(st.just({"name": "data", "emptyDir": {}}), max_size=1)),
                "securityContext": optional(
                    st.fixed_dictionaries({}, optional={"supplementalGroups": st.sampled_from([[], [1], [GROUP], None])})
                ),
                "restartPolicy": st.sampled_from(["Always", "Never", "OnFailure"]),
                "automountServiceAccountToken": st.booleans(),
            },
        )
    },
    optional={
        "metadata": optional(
            st.fixed_dictionaries(
                {},
                optional={
                    "labels": optional(st.dictionaries(st.just("app"), st.just("x"))),
                    "annotations": optional(
                        st.dictionaries(
                            st.sampled_from(["note", "kubectl.kubernetes.io/default-container"]), st.just("app0"), max_size=2
                        )
                    ),
                },
            )
        )
    },
)


@given(PODS, st.sampled_from([(1, 25), (1, 29), (1, 37)]))
def test_any_pod_can_be_injected_twice_and_restored(pod: dict[str, Any], version: tuple[int, int]) -> None:
    before = copy.deepcopy(pod)
    done = patched(pod, version)
    assert pod == before, "the patch is made without changing the pod"
    assert consider(done, PLACE, OPTIONS, version).patch == []
    sidecars = [each for each in pods.containers(done) if each["name"] == NAME]
    assert len(sidecars) == 1
    ports = {port["containerPort"] for each in pods.containers(pod) for port in each.get("ports") or []}
    address = next(one["value"] for one in sidecars[0]["env"] if one["name"] == "CACHE_SIDECAR_LISTEN_ADDRESS")
    assert int(address.rpartition(":")[2]) not in ports
    for each in pods.containers(done):
        names = [variable["name"] for variable in each.get("env") or []]
        assert len(names) == len(set(names))
    assert apply.uninject(done)
    assert done == before


WORDS = """spec metadata containers initContainers env name value image labels annotations volumes volumeMounts mountPath ports
    containerPort protocol securityContext supplementalGroups nodeSelector os hostNetwork restartPolicy
    cache-sidecar.io/inject cache-sidecar.io/status cache-sidecar.io/port cache-sidecar"""
KEYS = st.sampled_from(WORDS.split())
THINGS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


@given(THINGS, st.dictionaries(KEYS, THINGS, max_size=4), THINGS)
def test_nonsense_is_refused_with_a_sentence(metadata: Any, spec: dict[str, Any], thing: Any) -> None:
    for pod in (thing, {"metadata": metadata, "spec": spec}, {"spec": {"containers": [{"name": "a"}]} | spec}):
        try:
            verdict = consider(pod, PLACE, OPTIONS, NEWEST)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert verdict.reason or verdict.patch is not None


def test_what_another_webhook_adds_later_is_completed() -> None:
    done = patched({"spec": {"containers": [{"name": "app", "image": "a"}]}})
    done["spec"]["containers"].append({"name": "late", "image": "l"})
    done["spec"]["initContainers"].insert(0, {"name": "first", "image": "f"})
    again = patched(done)
    for each in (again["spec"]["containers"][1], again["spec"]["initContainers"][0]):
        assert {one["name"] for one in each["env"]} == {"CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET"}
        assert [one["name"] for one in each["volumeMounts"]] == [SOCKET_VOLUME]
    assert [each["name"] for each in again["spec"]["initContainers"]] == ["first", "cache-sidecar"]
    assert consider(again, PLACE, OPTIONS, NEWEST).patch == []


def test_what_is_completed_is_told_of_the_port_that_the_sidecar_has() -> None:
    options = OPTIONS.model_copy(update={"port": "7000", "socket": "disabled"})
    done = patched({"spec": {"containers": [{"name": "app", "image": "a"}], "restartPolicy": "Never"}}, (1, 28), options)
    done["spec"]["containers"].append({"name": "late", "image": "l"})
    env = [
        {"name": "CACHE_SIDECAR_ADDRESS", "value": "127.0.0.1:7000"},
        {"name": "CACHE_SIDECAR_QUIT_URL", "value": "http://127.0.0.1:7001/quit"},
        {"name": "CACHE_SIDECAR_QUIT_TOKEN_FILE", "value": "/run/cache-sidecar-quit/token"},
    ]
    mounts = [{"name": "cache-sidecar-quit", "mountPath": "/run/cache-sidecar-quit", "readOnly": True}]
    late = {"name": "late", "image": "l", "env": env, "volumeMounts": mounts}
    assert patched(done, (1, 28))["spec"]["containers"][2] == late


def test_a_status_without_a_sidecar_is_no_sidecar() -> None:
    pod = {
        "metadata": {"annotations": {"cache-sidecar.io/status": "{}"}},
        "spec": {"containers": [{"name": "app", "image": "a"}]},
    }
    assert patched(pod)["spec"]["initContainers"][0]["name"] == NAME


@pytest.mark.parametrize(
    "status",
    [
        "",
        "nonsense",
        "[]",
        '{"kept": 5, "empty": [1], "mode": {}}',
        '{"empty": {"/spec/0/x": null, "": [], "/spec/y": {"evil": 1}}}',
    ],
)
def test_a_status_that_somebody_wrote_is_no_harm(status: str) -> None:
    before = {"spec": {"containers": [{"name": "app", "image": "a"}]}}
    done = patched(before)
    done["metadata"]["annotations"]["cache-sidecar.io/status"] = status
    assert apply.uninject(done)
    assert done == before


def test_the_hash_follows_the_configuration() -> None:
    pod = {"spec": {"containers": [{"name": "app", "image": "a"}]}}
    status = "cache-sidecar.io/status"
    found = {
        patched(pod, options=Options(memory_limit=limit))["metadata"]["annotations"][status]
        for limit in ("600Mi", "640Mi", "640Mi")
    }
    assert len(found) == 2


def test_every_default_can_be_made() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    kubernetes_validate.validate(patched(pod), "1.37", strict=True)
    assert SOCKET.startswith("/run/cache-sidecar/")


def test_codes_of_reasons_stay() -> None:
    assert [reason.code for reason in Reason] == [
        "not_enabled",
        "opted_out",
        "system_namespace",
        "own_namespace",
        "own_pod",
        "mirror_pod",
        "host_network",
        "windows",
        "no_containers",
        "sidecar_present",
        "volume_taken",
        "mount_path_taken",
    ]


def test_the_readme_has_every_annotation_and_every_reason() -> None:
    text = (Path(annotations.__file__).parent / "README.md").read_text()
    for name, field in Options.model_fields.items():
        default = "`cache-sidecar:` and the version" if name == "image" else f"`{field.default}`" if field.default else ""
        assert f"| `{name.replace('_', '-')}` | {default} | {field.description} |\n" in text
    for reason in Reason:
        assert f"| `{reason.code}` | {reason.value} |\n" in text


def test_the_readme_has_every_key_of_the_configuration() -> None:
    text = (Path(annotations.__file__).parent / "README.md").read_text()
    for section, field in InjectorConfig.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {}) if section != "sidecar" else {}
        for name, key in keys.items():
            default = f"`{key.default}`" if key.default not in {"", ()} else ""
            assert f"| `{section}.{name}` | {default} | {key.description} |\n" in text
