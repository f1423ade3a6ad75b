"""Generates the TypeScript code of `clients/protos` into `src/gen`; with --check, reports whether it is up to date.

    ../../.venv/bin/python generate.py [--check]

The compiler is that of grpcio-tools, the plugin protoc-gen-es of `npm ci`. The generated code is committed, so that
the package can be built without them. Never edit it.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

FOLDER = Path(__file__).parent
PROTOS = FOLDER.parent / "protos"
GENERATED = FOLDER / "src/gen"
PLUGIN = FOLDER / "node_modules/.bin/protoc-gen-es"


def generate(out: Path) -> dict[Path, str]:
    """Returns the text of every generated file, by its path relative to `src/gen`; compiles in the scratch folder `out`."""
    if not PLUGIN.exists():
        raise SystemExit("node_modules is missing: run `npm ci` in clients/typescript")
    includes = [PROTOS, Path(grpc_tools.__file__).parent / "_proto"]
    command = ["protoc", *(f"-I{path}" for path in includes), f"--plugin={PLUGIN}", f"--es_out={out}"]
    # google/protobuf is part of the library @bufbuild/protobuf.
    protos = sorted(path for path in PROTOS.rglob("*.proto") if "protobuf" not in path.parts)
    if status := protoc.main([*command, "--es_opt=target=ts,import_extension=js", *map(str, protos)]):
        raise SystemExit(status)
    return {path.relative_to(out): path.read_text() for path in sorted(out.rglob("*.ts"))}


def main(arguments: list[str]) -> int:
    """Writes the files, or compares them with --check; returns 1 if they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        generated = generate(Path(scratch))
    existing = {path.relative_to(GENERATED) for path in GENERATED.rglob("*.ts")}
    stale = sorted(existing - generated.keys())
    changed = [path for path, text in generated.items() if path not in existing or (GENERATED / path).read_text() != text]
    if "--check" in arguments:
        for path in stale + changed:
            print(
                f"src/gen/{path} differs from clients/protos: run clients/typescript/generate.py and commit the result",
                file=sys.stderr,
            )
        return 1 if stale or changed else 0
    for path in stale:
        (GENERATED / path).unlink()
    for path, text in generated.items():
        (GENERATED / path).parent.mkdir(parents=True, exist_ok=True)
        (GENERATED / path).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
