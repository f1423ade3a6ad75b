"""The pods of the golden files, and the request that the injector gets for each."""

from pathlib import Path
from typing import Any, NamedTuple

import jsonpatch
from ruamel.yaml import YAML

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector.config import NEWEST, parse_version
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in (FOLDER / "pods").glob("*.yaml"))


class Case(NamedTuple):
    """A pod, and where it is to be made."""

    pod: dict[str, Any]
    place: Place
    options: Options
    version: tuple[int, int]


def load(name: str) -> Case:
    """Reads tests/injector/pods/NAME.yaml: the pod, after a document `case` when something differs from the usual."""
    *before, pod = YAML(typ="safe").load_all((FOLDER / "pods" / f"{name}.yaml").read_text())
    case = before[0]["case"] if before else {}
    namespace = (pod.get("metadata") or {}).get("namespace", "")
    return Case(
        pod,
        Place(namespace, enabled=case.get("enabled", True), own_namespace="cache-sidecar"),
        # The image without our version, so that a release changes no golden file.
        Options(image="cache-sidecar:1").model_copy(update=case.get("options", {})),
        parse_version(case["version"]) if "version" in case else NEWEST,
    )


def outcome(case: Case) -> dict[str, Any]:
    """Returns what a golden file holds."""
    try:
        verdict = consider(case.pod, case.place, case.options, case.version)
    except InputError as error:
        return {"denied": str(error)}
    return {"skipped": verdict.reason.code} if verdict.reason else {"patch": verdict.patch}


def patched(case: Case) -> dict[str, Any] | None:
    """Returns the pod with its sidecar, None when it gets none."""
    operations = outcome(case).get("patch")
    return operations and jsonpatch.apply_patch(case.pod, operations)
