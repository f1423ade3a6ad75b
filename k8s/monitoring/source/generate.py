"""Generates everything else in `k8s/monitoring`: `make monitoring`. With `--check`, fails if the committed files differ.

Metrics are named by `cache_sidecar/metrics/definitions.py`, so that a metric that is renamed there is renamed here.
"""

import sys
from pathlib import Path

import dashboards
import manifests
import rules
import runbook

FOLDER = Path(__file__).parents[1]


def generate() -> dict[str, str]:
    """Returns the text of each file by its name below k8s/monitoring."""
    return rules.files() | dashboards.files() | manifests.files(list(dashboards.files())) | runbook.files()


def main() -> int:
    """Writes or checks the files; returns the exit code."""
    files = generate()
    present = {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file() and file.parts[-2] != "source"}
    # The guide is written by hand, and so is nothing else.
    superfluous = {name for name in present - files.keys() if name != "README.md" and "__pycache__" not in name}
    different = {name for name, text in files.items() if name not in present or (FOLDER / name).read_text() != text}
    if "--check" in sys.argv[1:]:
        if wrong := sorted(superfluous | different):
            print(f"not as generated: {', '.join(wrong)}: run 'make monitoring' and commit the result", file=sys.stderr)  # noqa: T201
        return 1 if wrong else 0
    for name in superfluous:
        (FOLDER / name).unlink()
    for name in different:
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text(files[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
