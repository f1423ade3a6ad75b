"""Generates everything that is made of these protos.

The Python code of the sidecar in `cache_sidecar/v1`, that of gRPC's interop service in `tests/interop`, the protos of
applications in `clients/protos`, and the stubs of the Python client.

With --check, reports whether it is up to date.

The generated code is committed, so that the project can be used without a compiler. Never edit it.
"""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from client_stubs import OUT as CLIENT_PROTOS
from client_stubs import PYTHON_STUBS, client_protos, python_stubs
from google.type import money_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).parent
PROJECT = PROTOS.parent
OURS = sorted(PROTOS.glob("cache_sidecar/v1/*.proto"))
VALIDATE = PROTOS / "buf/validate/validate.proto"
INTEROP = PROJECT / "tests/interop"
# The validation rules are options in our descriptors, but no wheel ships their generated module, so we generate it. The
# interop service cannot be in grpc's own package.
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


def generate(out: Path) -> tuple[dict[Path, str], set[Path]]:
    """Compiles in the scratch folder `out`.

    Returns the text of every generated file, by its path relative to the project, and the files that exist and should be
    among them.
    """
    compile_protos(out)
    generated = {}
    for path in sorted(out.rglob("*.py*")):
        text = path.read_text()
        if "_pb2_grpc" in path.name and "Stub" not in text:
            continue
        for old, new in MOVED.items():
            text = text.replace(old, new)
        generated[path.relative_to(out)] = text
    generated |= client_protos()
    folders = [(PROJECT / "cache_sidecar/v1", "*_pb2*.py*"), (INTEROP, "*_pb2*.py*"), (PROJECT / CLIENT_PROTOS, "*.*")]
    if (stubs := python_stubs()) is not None:
        generated |= stubs
        folders.append((PROJECT / PYTHON_STUBS, "*_pb2*.py*"))
    existing = {path for folder, pattern in folders for path in folder.rglob(pattern) if "__pycache__" not in path.parts}
    return generated, {path.relative_to(PROJECT) for path in existing}


def main(arguments: list[str]) -> int:
    """Writes the files, or compares them with --check; returns 1 if they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        generated, existing = generate(Path(scratch))
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
