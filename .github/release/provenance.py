"""What a release was made of and by what: an in-toto statement with the predicate of SLSA v1. Nobody has signed it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PROJECT = "https://github.com/cache-sidecar/cache-sidecar"
MATERIALS = (
    ".requirements.lock",
    "k8s/image/base.txt",
    "k8s/image/uv.txt",
    "cache_sidecar/native/Cargo.lock",
    "clients/typescript/package-lock.json",
    "clients/go/go.sum",
    "clients/java/bom/pom.xml",
)
"The files that pin what a release is built of."


def digest(file: Path) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def state(
    root: Path, files: Iterable[Path], *, version: str, commit: str, epoch: int, tools: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the statement about files that were built of a commit, whose time is `epoch`, with tools of these versions."""
    source = {"uri": f"git+{_PROJECT}@refs/tags/v{version}", "digest": {"gitCommit": commit}}
    pins = [{"uri": f"{_PROJECT}/blob/{commit}/{name}", "digest": {"sha256": digest(root / name)}} for name in MATERIALS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.name, "digest": {"sha256": digest(file)}} for file in sorted(files)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{_PROJECT}/blob/{commit}/.github/release/README.md",
                "externalParameters": {"source": source["uri"], "command": ["make", "release"]},
                "internalParameters": {"SOURCE_DATE_EPOCH": epoch, "signed": False},
                "resolvedDependencies": [source, *pins],
            },
            "runDetails": {
                # Not a service that could vouch for it: whoever ran the command.
                "builder": {"id": f"{_PROJECT}/blob/{commit}/Makefile", "version": dict(tools)},
            },
        },
    }


def write(target: Path, statement: Mapping[str, Any]) -> None:
    """Writes a statement."""
    target.write_text(json.dumps(statement, indent=2) + "\n")


def write_sums(target: Path, files: Iterable[Path]) -> None:
    """Writes what `sha256sum --check` reads."""
    target.write_text("".join(f"{digest(file)}  {file.name}\n" for file in sorted(files)))
