"""k8s/monitoring: generated as it is committed, of metrics that exist, with a page in the runbook for each alert."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from cache_sidecar.cli import cli
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Kind
from tests.injector.manifests import read, render

FOLDER = Path(__file__).parents[2] / "k8s" / "monitoring"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
# Metrics that every client library has.
GENERAL = {"up"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in YAML(typ="safe").load(FOLDER / "rules.yaml")["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels(file: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def exprs() -> list[str]:
    shown = [target["expr"] for file in DASHBOARDS for panel in panels(file) for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in rules())]


def metric_names(expr: str) -> set[str]:
    without_texts = re.sub(r'"[^"]*"', "", expr)
    return set(re.findall(r"(?<![\w:])(?:cache_sidecar_|cache_sidecar:|process_|up)[\w:]*(?![\w:(])", without_texts))


def known() -> set[str]:
    found = {rule["record"] for rule in rules() if "record" in rule} | GENERAL
    for metric in definitions.ALL:
        names = {Kind.COUNTER: ["_total"], Kind.GAUGE: [""], Kind.HISTOGRAM: ["_bucket", "_count", "_sum"]}
        found |= {metric.name + suffix for suffix in names[metric.kind]}
    return found


def test_the_committed_files_are_the_generated_ones() -> None:
    command = [sys.executable, str(FOLDER / "source" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_query_is_of_metrics_that_exist() -> None:
    assert metric_names('rate(cache_sidecar_x_total{a="cache_sidecar_y"}[5m]) / process_z') == {
        "cache_sidecar_x_total",
        "process_z",
    }
    unknown = {expr: metric_names(expr) - known() for expr in exprs() if metric_names(expr) - known()}
    assert unknown == {}
    assert [expr for expr in exprs() if not metric_names(expr) and "ALERTS" not in expr] == []


def test_every_metric_is_shown_or_watched() -> None:
    used = set().union(*map(metric_names, exprs()))
    unused = [metric.name for metric in definitions.ALL if not any(name.startswith(metric.name) for name in used)]
    assert unused == []


def test_every_alert_has_a_page_in_the_runbook() -> None:
    text = (FOLDER / "runbook.md").read_text()
    headings = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert [f"CacheSidecar{heading}" for heading in headings] == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        anchor = alert["annotations"]["runbook_url"].partition("#")[2]
        assert anchor == alert["alert"].removeprefix("CacheSidecar").lower()
        assert alert["labels"]["severity"] in {"page", "ticket"}
    for page in text.split("\n### ")[1:]:
        assert re.search(r"\*\*Look at\*\*\n\n- .+:\n\n {6}\S", page), page
        assert re.search(r"\*\*Do\*\*\n\n- ", page), page


def test_the_runbook_s_commands_exist() -> None:
    named = set(re.findall(r"(?:^ {6}|`|-- )cache-sidecar ([a-z]+)", (FOLDER / "runbook.md").read_text(), re.MULTILINE))
    assert named
    with click.Context(cli) as context:
        assert named - set(cli.list_commands(context)) == set()


def test_every_alert_is_tested_by_promtool() -> None:
    tested = {test["name"]: test["promql_expr_test"] for test in YAML(typ="safe").load(FOLDER / "rules.test.yaml")["tests"]}
    assert {f"CacheSidecar{name}" for name in tested} == {alert["alert"] for alert in alerts()}
    for found in tested.values():
        assert any(one["exp_samples"] for one in found)
        assert any(not one["exp_samples"] for one in found)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_have_their_panels_side_by_side(file: Path) -> None:
    board = json.loads(file.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    chosen = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) <= chosen


def test_the_operator_s_rules_are_the_same() -> None:
    (rule,) = read((FOLDER / "prometheus-rule.yaml").read_text())
    assert rule["spec"]["groups"] == YAML(typ="safe").load(FOLDER / "rules.yaml")["groups"]


def test_the_kustomization_names_every_object() -> None:
    objects = render(FOLDER)
    kinds = [thing["kind"] for thing in objects]
    assert sorted(kinds) == ["ConfigMap", "PodMonitor", "PodMonitor", "PodMonitor", "PrometheusRule"]
    dashboards = next(thing for thing in objects if thing["kind"] == "ConfigMap")
    assert len(dashboards["data"]) == len(DASHBOARDS)
