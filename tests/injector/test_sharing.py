"""Manifests as people have them: anchors and merges, other kinds, JSON. `UPDATE_GOLDEN=1` rewrites inject/golden."""

import json
import os
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cache_sidecar import __version__
from cache_sidecar.injector import documents, files
from cache_sidecar.injector.config import NEWEST, InjectorConfig
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.sharing import share_again
from tests.injector.test_files import meaning, run

FOLDER = Path(__file__).parent / "inject"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
STATUS = "cache-sidecar.io/status"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The image without our version, so that a release changes no golden file."""
    path = tmp_path / "injector.toml"
    path.write_text('[sidecar]\nimage = "cache-sidecar:1"\n')
    return path


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, config: Path) -> None:
    done = run("inject", "-f", FOLDER / f"{name}.yaml", "--config", config)
    assert done.exit_code == 0
    comments = "".join(f"# {line}\n" for line in done.stderr.splitlines())
    found = comments + done.stdout.replace(f'"version":"{__version__}"', '"version":"1"')
    path = FOLDER / "golden" / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_uninject_restores_every_byte(name: str) -> None:
    before = (FOLDER / f"{name}.yaml").read_bytes()
    injected = run("inject", "-f", FOLDER / f"{name}.yaml").stdout_bytes
    assert injected != before
    assert run("inject", "-f", "-", given=injected.decode()).stdout_bytes == injected
    assert run("uninject", "-f", "-", given=injected.decode()).stdout_bytes == before


def test_a_selector_that_shares_its_labels_with_the_pod_does_not_change() -> None:
    before, after = (meaning(text) for text in (_anchors(), run("inject", "-f", FOLDER / "anchors.yaml").stdout))
    for old, new in zip(before, after, strict=True):
        assert new["spec"]["selector"] == old["spec"]["selector"]
        for each in new["spec"]["template"]["spec"]["containers"]:
            for key in ("env", "volumeMounts"):
                names = [one["name"] for one in each[key]]
                assert len(names) == len(set(names)), each["name"]


def _anchors() -> str:
    return (FOLDER / "anchors.yaml").read_text()


class _Writer:
    """Writes objects as YAML in which equal ones are sometimes aliases, as the choices say."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = list(choices)
        self._anchors: list[tuple[str, Any]] = []

    def write(self, value: Any) -> str:
        if not isinstance(value, dict | list) or not value:
            return json.dumps(value)
        known = [name for name, other in self._anchors if other == value]
        if known and self._choose(3):
            return f"*{known[0]}"
        mark = ""
        if self._choose(2):
            # Named once its children are written: they come first in the list, as they do in the file.
            mark = f"&a{len(self._anchors)} "
            name, index = f"a{len(self._anchors)}", len(self._anchors)
            self._anchors.append((name, None))
        text = self._map(value) if isinstance(value, dict) else f"[{', '.join(map(self.write, value))}]"
        if mark:
            self._anchors[index] = (name, value)
        return mark + text

    def _map(self, value: dict[str, Any]) -> str:
        parts = []
        merged = next((each for each in self._anchors if isinstance(each[1], dict) and each[1].keys() <= value.keys()), None)
        own = dict(value)
        if merged and self._choose(2):
            parts.append(f"<<: *{merged[0]}")
            own = {key: item for key, item in value.items() if merged[1].get(key) != item}
        parts += [f"{key}: {self.write(item)}" for key, item in own.items()]
        return f"{{{', '.join(parts)}}}"

    def _choose(self, sides: int) -> bool:
        return bool(self._choices and self._choices.pop() % sides)


LABELS = st.sampled_from([{"app": "web"}, {"app": "web", "tier": "front"}])
ENV = st.sampled_from([[], [{"name": "A", "value": "a"}], [{"name": "CACHE_SIDECAR_ADDRESS", "value": "own"}]])
MOUNTS = st.sampled_from([[], [{"name": "data", "mountPath": "/data"}]])
CONTEXTS = st.sampled_from([{}, {"runAsUser": 1000}, {"supplementalGroups": [7]}])


@st.composite
def _workloads(draw: st.DrawFn) -> dict[str, Any]:
    containers = []
    for index in range(draw(st.integers(1, 3))):
        each = {"name": f"c{index}", "image": "shop/app:1"}
        each |= {key: draw(values) for key, values in (("env", ENV), ("volumeMounts", MOUNTS)) if draw(st.booleans())}
        each |= {"securityContext": draw(CONTEXTS)} if draw(st.booleans()) else {}
        containers.append(each)
    spec = {"containers": containers, "volumes": [{"name": "data", "emptyDir": {}}]}
    spec |= {"securityContext": draw(CONTEXTS)} if draw(st.booleans()) else {}
    metadata = {"labels": draw(LABELS)}
    metadata |= {"annotations": draw(LABELS)} if draw(st.booleans()) else {}
    template = {"metadata": metadata, "spec": spec}
    selector = {"matchLabels": draw(LABELS)}
    parts = (
        {"selector": selector, "template": template} if draw(st.booleans()) else {"template": template, "selector": selector}
    )
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": draw(LABELS)}, "spec": parts}


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(st.lists(_workloads(), min_size=1, max_size=3), st.lists(st.integers(0, 5), max_size=60))
def test_whatever_is_shared_only_pods_change_and_everything_is_restored(
    items: list[dict[str, Any]], choices: list[int]
) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": items}
    written = _Writer(choices).write(document)
    text = documents.write(documents.read(written, "x"), written, among_others=False)
    assert meaning(text) == [document]
    config = InjectorConfig(sidecar=Options())
    done, results = files.inject([files.File("x", text, documents.read(text, "x"))], config, by_label=False)
    assert {result.action for result in results} == {"inject"}
    injected = done[0].render(among_others=False)
    assert _without_shared(meaning(injected)[0]) == _expected(document)
    again, _ = files.inject([files.File("x", injected, documents.read(injected, "x"))], config, by_label=False)
    assert again[0].render(among_others=False) == injected
    back = files.File("x", injected, documents.read(injected, "x"))
    files.uninject([back], {})
    assert back.render(among_others=False) == text


def _expected(document: dict[str, Any]) -> dict[str, Any]:
    made = json.loads(json.dumps(document))  # a deep copy would share what is shared in Python
    for item in made["items"]:
        pod = item["spec"]["template"]
        patch = consider(pod, Place("", enabled=True), Options(), NEWEST).patch
        item["spec"]["template"] = jsonpatch.apply_patch(pod, patch)
    return made


def _without_shared(document: dict[str, Any]) -> dict[str, Any]:
    for item in document["items"]:
        notes = item["spec"]["template"]["metadata"]["annotations"]
        status = json.loads(notes[STATUS])
        status.pop("shared", None)
        notes[STATUS] = json.dumps(status, separators=(",", ":"))
    return document


@pytest.mark.parametrize(
    "shared",
    [
        {"": "a"},
        {"/x": 5},
        {"..": "a b"},
        {"../../../..": "a"},
        {"/spec/0": "<<"},
        {"/spec/containers/9": "a"},
        {"/spec": "new"},
    ],
)
def test_what_somebody_wrote_about_sharing_is_no_harm(shared: dict[str, Any]) -> None:
    (document,) = documents.read("spec: {template: {spec: {containers: [{name: a}]}}}\n", "x")
    share_again(document, ("spec", "template"), shared)
    assert document == {"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x"},
    "spec": {"containers": [{"name": "a", "args": ["<&>", "ä"]}]},
}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(POD),
        json.dumps(POD, separators=(",", ":")) + "\n",
        json.dumps(POD, indent=4, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026").replace(">", "\\u003e")
        + "\n",
        json.dumps(POD, indent="\t", ensure_ascii=False) + "\n",
        json.dumps(POD, indent=2) + "\n" + json.dumps(POD, indent=2) + "\n",
    ],
)
def test_json_stays_json(text: str) -> None:
    injected = run("inject", "-f", "-", given=text).stdout
    values = documents.read(injected, "x")
    assert documents.is_json(injected)
    assert [value["spec"]["initContainers"][0]["name"] for value in values] == ["cache-sidecar"] * len(values)
    assert run("uninject", "-f", "-", given=injected).stdout == text


def test_json_with_a_key_twice_is_an_error_with_its_position() -> None:
    assert run("inject", "-f", "-", given='{"kind": "Pod",\n "kind": "Pod"}').stderr.startswith(
        "cache-sidecar: standard input:2:"
    )


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_bytes(b"\xef\xbb\xbfkind: Pod\r\nmetadata: {name: x}\r\nspec:\r\n  containers:\r\n  - name: a # one\r\n")
    injected = run("inject", "-f", path).stdout_bytes
    assert b"\n" not in injected.replace(b"\r\n", b"")
    path.with_name("injected.yaml").write_bytes(injected)
    assert run("uninject", "-f", path.with_name("injected.yaml")).stdout_bytes == path.read_bytes()


RAY = """apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: learners}
spec:
  head: {spec: {containers: [{name: head}]}}
  groups:
  - template: {spec: {containers: [{name: one}]}}
  - template: {spec: {containers: [{name: two}]}}
"""


def test_other_kinds_by_the_way_to_their_pod_templates(tmp_path: Path) -> None:
    config = tmp_path / "injector.toml"
    config.write_text('[pod_templates]\n"RayCluster.ray.io" = "spec.groups[].template"\n')
    done = run("inject", "-f", "-", "--config", config, given=RAY)
    assert done.stderr == "RayCluster/learners[0] inject\nRayCluster/learners[1] inject\n"
    (cluster,) = meaning(done.stdout)
    assert "initContainers" not in cluster["spec"]["head"]["spec"]
    assert [group["template"]["spec"]["initContainers"][0]["name"] for group in cluster["spec"]["groups"]] == [
        "cache-sidecar"
    ] * 2
    assert run("uninject", "-f", "-", "--config", config, given=done.stdout).stdout == RAY


@pytest.mark.parametrize(
    ("templates", "problem"),
    [
        ('"RayCluster.ray.io" = "spec..x"', "'spec..x' must be the way to a pod template, such as spec.template"),
        ('"ray.io/RayCluster" = "spec"', "'ray.io/RayCluster' must be a kind with its API group, such as Shop.example.com"),
        ('"RayCluster.ray.io" = "spec.head[].x"', "RayCluster/learners: spec.head is not a list"),
        ('"RayCluster.ray.io" = "spec.none"', "RayCluster/learners: spec.none is missing"),
    ],
)
def test_a_wrong_way(tmp_path: Path, templates: str, problem: str) -> None:
    config = tmp_path / "injector.toml"
    config.write_text(f"[pod_templates]\n{templates}\n")
    done = run("inject", "-f", "-", "--config", config, given=RAY)
    assert (done.exit_code, problem in done.stderr, done.stderr.count("\n")) == (64, True, 1)


def test_only_labelled_objects_are_reported_as_left_alone() -> None:
    done = run(
        "check",
        "-f",
        "-",
        given=RAY + "---\n" + RAY.replace("name: learners", "name: y, labels: {cache-sidecar.io/inject: enabled}"),
    )
    assert done.exit_code == 0
    assert done.stdout.startswith("RayCluster/y skip unknown_kind: ")
    assert done.stdout.endswith(" for RayCluster.ray.io\n")
    assert done.stdout.count("\n") == 1


def test_an_anchor_without_an_alias_stays() -> None:
    text = "kind: Pod\nmetadata: &m {name: x}\nspec: &s\n  containers: [{name: a}]\n"
    assert run("uninject", "-f", "-", given=run("inject", "-f", "-", given=text).stdout).stdout == text


def test_the_files_are_what_they_are_said_to_be() -> None:
    assert NAMES == ["anchors", "knative", "rollout"]
    assert len(list(YAML(typ="safe").load_all(_anchors()))) == 2
