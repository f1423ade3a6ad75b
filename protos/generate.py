"""Generates the Python code of these protos into `cache_sidecar/v1`, and that of gRPC's interop service into `tests/interop`.

With --check, says whether it is up to date.

The generated code is committed, so that using the project needs no compiler, and never edited.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.type import money_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).parent
PROJECT = PROTOS.parent
OURS = sorted(PROTOS.glob("cache_sidecar/v1/*.proto"))
VALIDATE = PROTOS / "buf/validate/validate.proto"
INTEROP = PROJECT / "tests/interop"
# The validation rules are options in our descriptors, but no wheel ships their generated module: we keep our own. The interop
# service cannot be below grpc's own package.
MOVED = {
    "from buf.validate import": "from cache_sidecar.v1.buf.validate import",
    "from grpc.testing import": "from tests.interop.grpc.testing import",
}


def compile_protos(out: Path) -> None:
    """Runs protoc with its Python, gRPC and type stub generators; raises SystemExit with protoc's status."""
    includes = [PROTOS, Path(grpc_tools.__file__).parent / "_proto", Path(money_pb2.__file__).parents[2]]
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    common = ["protoc", *plugins, *(f"-I{path}" for path in includes), f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    services = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
    vendored = out / "cache_sidecar/v1"
    vendored.mkdir(parents=True, exist_ok=True)
    if status := protoc.main([*common, *services, *map(str, OURS)]):
        raise SystemExit(status)
    at_vendored = [argument.replace(f"={out}", f"={vendored}").replace(f":{out}", f":{vendored}") for argument in common]
    if status := protoc.main([*at_vendored, str(VALIDATE)]):
        raise SystemExit(status)
    interop = out / INTEROP.relative_to(PROJECT)
    interop.mkdir(parents=True)
    plain = ["protoc", f"-I{INTEROP / 'protos'}", f"--python_out={interop}", f"--grpc_python_out={interop}"]
    if status := protoc.main([*plain, *map(str, sorted((INTEROP / "protos").rglob("*.proto")))]):
        raise SystemExit(status)


def generate(out: Path) -> dict[Path, str]:
    """Returns every generated file's text by its path below the project, compiled in the scratch folder `out`."""
    compile_protos(out)
    generated = {}
    for path in sorted(out.rglob("*.py*")):
        text = path.read_text()
        if "_pb2_grpc" in path.name and "Stub" not in text:
            continue
        for old, new in MOVED.items():
            text = text.replace(old, new)
        generated[path.relative_to(out)] = text
    return generated


def main(arguments: list[str]) -> int:
    """Writes the files, or compares them; returns 1 when they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        generated = generate(Path(scratch))
    existing = {
        path.relative_to(PROJECT)
        for folder in (PROJECT / "cache_sidecar/v1", INTEROP)
        for path in folder.rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    stale = sorted(existing - generated.keys())
    changed = [p for p, text in generated.items() if not (PROJECT / p).exists() or (PROJECT / p).read_text() != text]
    if "--check" in arguments:
        for path in stale + changed:
            print(f"{path} differs from the protos: run `make proto` and commit the result", file=sys.stderr)
        return 1 if stale or changed else 0
    for path in stale:
        (PROJECT / path).unlink()
    for path, text in generated.items():
        (PROJECT / path).parent.mkdir(parents=True, exist_ok=True)
        (PROJECT / path).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
