"""Pods, and what becomes of each. `UPDATE_GOLDEN=1` rewrites the files: review the diff before committing."""

import copy
import json
import os

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from cache_sidecar import __version__
from cache_sidecar.injector import apply, patch
from cache_sidecar.injector.config import NEWEST, OLDEST
from cache_sidecar.injector.container import NAME
from tests.injector import cases
from tests.injector.cases import outcome, patched


def test_there_are_enough_of_them() -> None:
    assert len(cases.NAMES) >= 40


@pytest.mark.parametrize("name", cases.NAMES)
def test_golden(name: str) -> None:
    yaml = YAML()
    yaml.width = 4096
    path = cases.FOLDER / "golden" / f"{name}.yaml"
    found = json.loads(
        json.dumps(outcome(cases.load(name))).replace(f'\\"version\\":\\"{__version__}\\"', '\\"version\\":\\"1\\"')
    )
    if os.environ.get("UPDATE_GOLDEN"):
        with path.open("w") as file:
            yaml.dump(found, file)
    assert found == YAML(typ="safe").load(path.read_text())


def test_every_golden_file_has_its_pod() -> None:
    assert sorted(path.stem for path in (cases.FOLDER / "golden").glob("*.yaml")) == cases.NAMES


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_pod_is_what_kubernetes_publishes(name: str) -> None:
    case = cases.load(name)
    pod = patched(case)
    if pod is None:
        return
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}} | pod
    native = any(each["name"] == NAME for each in pod["spec"].get("initContainers") or [])
    oldest = patch.FIRST_NATIVE if native else OLDEST
    for version in {oldest, case.version, NEWEST}:
        kubernetes_validate.validate(copy.deepcopy(whole), f"{version[0]}.{version[1]}", strict=True)


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_second_time_changes_nothing(name: str) -> None:
    case = cases.load(name)
    if pod := patched(case):
        assert outcome(case._replace(pod=pod)) == {"patch": []}


@pytest.mark.parametrize("name", cases.NAMES)
def test_our_own_way_of_applying_is_the_standard_one(name: str) -> None:
    case = cases.load(name)
    if pod := patched(case):
        apply.apply(case.pod, outcome(case)["patch"])
        assert case.pod == pod


@pytest.mark.parametrize("name", cases.NAMES)
def test_what_was_injected_can_be_taken_out(name: str) -> None:
    case = cases.load(name)
    if pod := patched(case):
        assert apply.uninject(pod)
        assert pod == case.pod
        assert not apply.uninject(pod)
