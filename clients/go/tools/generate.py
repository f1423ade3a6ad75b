"""Generates the Go code in `clients/go/cachesidecarv1` from `clients/protos`; with --check, reports whether it is up to date.

Needs Go; the generators are built from the module in this folder, where their versions are pinned. Run it with the project's
Python, which has protoc: `.venv/bin/python clients/go/tools/generate.py`. The generated code is committed. Never edit it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

TOOLS = Path(__file__).parent
MODULE = TOOLS.parent
PROTOS = MODULE.parent / "protos"
PACKAGE = "cachesidecarv1"
PATH = "github.com/cache-sidecar/cache-sidecar/clients/go"
GENERATORS = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")


def generate(scratch: Path) -> dict[str, str]:
    """Returns the text of every generated file by its name; compiles in the scratch folder."""
    plugins, out = scratch / "plugins", scratch / "out"
    out.mkdir()
    # A module of its own, which a workspace around it must not change.
    subprocess.run(
        ["go", "build", "-o", f"{plugins}{os.sep}", *GENERATORS], cwd=TOOLS, check=True, env=os.environ | {"GOWORK": "off"}
    )
    arguments = ["protoc", f"-I{PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    for name in ("go", "go-grpc"):
        plugin = f"--plugin={plugins / f'protoc-gen-{name}'}"
        arguments += [plugin, f"--{name}_out={out}", f"--{name}_opt=module={PATH}"]
    # Google's types have Go packages of their own, so that they are registered once in every program.
    if status := protoc.main([*arguments, *map(str, sorted(PROTOS.glob("cache_sidecar/v1/*.proto")))]):
        raise SystemExit(status)
    return {path.name: path.read_text() for path in sorted((out / PACKAGE).iterdir())}


def main(arguments: list[str]) -> int:
    """Writes the files, or compares them with --check; returns 1 if they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        generated = generate(Path(scratch))
    target = MODULE / PACKAGE
    existing = {path.name: path.read_text() for path in target.glob("*.pb.go")}
    differing = sorted(name for name in existing.keys() | generated.keys() if existing.get(name) != generated.get(name))
    if "--check" in arguments:
        for name in differing:
            print(f"{PACKAGE}/{name} differs from the protos: run clients/go/tools/generate.py", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        if name in generated:
            (target / name).write_text(generated[name])
        else:
            (target / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
