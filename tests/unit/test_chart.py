"""k8s/chart: generated as it is committed, with values for every option of the injector's configuration."""

import json
import subprocess
import sys
from pathlib import Path

from cache_sidecar import __version__
from cache_sidecar.injector.config import ReconcilerConfig
from cache_sidecar.injector.options import Options
from tests.injector.manifests import read

FOLDER = Path(__file__).parents[2] / "k8s" / "chart"


def test_the_committed_files_are_the_generated_ones() -> None:
    command = [sys.executable, str(FOLDER / "source" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_knows_every_option() -> None:
    schema = json.loads((FOLDER / "values.schema.json").read_text())["properties"]
    assert schema["sidecar"]["properties"].keys() == Options.model_fields.keys()
    reconciler = schema["injector"]["properties"]["reconciler"]
    assert reconciler["properties"].keys() == ReconcilerConfig.model_fields.keys()


def test_the_version_is_the_programs() -> None:
    (chart,) = read((FOLDER / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
