"""Rules and configuration, as Prometheus' and Alertmanager's own tools see them."""

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.monitoring.build import AMTOOL, PROMTOOL
from tests.unit.test_monitoring import FOLDER


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_valid(programs: Path) -> None:
    assert "SUCCESS" in run(programs / PROMTOOL, "check", "rules", "--lint-fatal", "rules.yaml")


@pytest.mark.timeout(600)  # half a minute of CPU: some stories are days long
def test_every_alert_follows_its_story(programs: Path) -> None:
    assert "SUCCESS" in run(programs / PROMTOOL, "test", "rules", "rules.test.yaml")


def test_a_story_that_an_alert_does_not_follow_is_noticed(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text((FOLDER / "rules.yaml").read_text().replace("< 256", "< 0"))
    tests = YAML(typ="safe").load(FOLDER / "rules.test.yaml")
    tests["tests"] = [test for test in tests["tests"] if test["name"] == "InvalidationsMissed"]
    YAML(typ="safe").dump(tests, tmp_path / "rules.test.yaml")
    command = [programs / PROMTOOL, "test", "rules", "rules.test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InvalidationsMissed" in done.stdout + done.stderr


def test_the_example_for_alertmanager_is_valid(programs: Path) -> None:
    assert "SUCCESS" in run(programs / AMTOOL, "check-config", "alertmanager.yaml")
