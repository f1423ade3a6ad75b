"""The protos of applications: ours without validation rules, which are the server's, and with the names of each language.

An application that has `buf/validate/validate.proto` itself, in another version or package, could not load ours beside it: Go
panics, Python's descriptor pool refuses, and PHP cannot load proto2 options at all. `google/rpc` is included, so that error
details can be read everywhere.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.type import money_pb2

PROTOS = Path(__file__).parent
GOOGLE = Path(money_pb2.__file__).parents[2]
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
OUT = Path("clients/protos")
"Relative to the project."
FROM_GOOGLE = ("google/rpc/code.proto", "google/rpc/error_details.proto", "google/rpc/status.proto")
COPIES = (
    "google/LICENSE",
    "google/type/money.proto",
    "cache_sidecar/v1/service_config.json",
    "cache_sidecar/v1/service_config_timeouts.json",
)
OPTIONS = """\
option csharp_namespace = "CacheSidecar.V1";
option go_package = "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1";
option java_multiple_files = true;
option java_package = "io.cachesidecar.v1";
option objc_class_prefix = "CSC";
option php_metadata_namespace = "CacheSidecar\\\\V1\\\\Metadata";
option php_namespace = "CacheSidecar\\\\V1";
option ruby_package = "CacheSidecar::V1";
"""


def client_protos() -> dict[Path, str]:
    """Returns the text of every file of `clients/protos`, by its path relative to the project."""
    # RecommendationGeneratorService is in them, too: the sidecar calls it, but its server is an application of the shop.
    files = {OUT / name: (GOOGLE / name).read_text() for name in FROM_GOOGLE}
    files |= {OUT / name: (PROTOS / name).read_text() for name in COPIES}
    for path in sorted(PROTOS.glob("cache_sidecar/v1/*.proto")):
        files[OUT / path.relative_to(PROTOS)] = without_rules(path.read_text())
    return files


def without_rules(text: str) -> str:
    """Returns a proto without the options of `buf.validate` and their import, and with the options of `OPTIONS`."""
    text = text.replace('import "buf/validate/validate.proto";\n', "")
    text = _without_statements(text)
    text = _without_field_options(text)
    text = re.sub(r"(?m)^option java_(?:multiple_files|package) = .*\n", "", text)
    text = re.sub(r"(?m)^option go_package = .*\n", lambda _: OPTIONS, text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"\n+(\n *\})", r"\1", text))
    if re.search(r"\bbuf\b", re.sub(r"//.*", "", text)):
        raise SystemExit("an option of buf.validate is left: protos/client_stubs.py does not know how to remove it")
    return text


def _without_statements(text: str) -> str:
    """Removes `option (buf.validate...) = ...;` of messages and oneofs."""
    while (start := text.find("option (buf.validate.")) >= 0:
        end = _end(text, start, ";") + 1
        line = text.rfind("\n", 0, start) + 1
        text = text[:line] + text[end:].removeprefix("\n")
    return text


def _without_field_options(text: str) -> str:
    """Removes `[(buf.validate...) = ...]` of fields; all options of our fields are rules."""
    while found := re.search(r"\s*\[\s*\(buf\.validate\.", text):
        text = text[: found.start()] + text[_end(text, text.index("[", found.start()) + 1, "]") + 1 :]
    return text


def _end(text: str, start: int, closing: str) -> int:
    """Returns where `closing` is, outside of quotes and of brackets that begin after `start`."""
    depth, i = 0, start
    while True:
        char = text[i]
        if char in "\"'":
            i += 1
            while text[i] != char:
                i += 2 if text[i] == "\\" else 1
        elif not depth and char == closing:
            return i
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        i += 1


# The Python client supports protobuf 5, 6 and 7. Code of a newer compiler refuses an older runtime; that of 5.26 checks none.
COMPILER = PROTOS / "compiler.txt"
"Pinned by hash, as the other dependencies; made by `uv pip compile --no-deps --universal --generate-hashes`."
COMPILER_FOLDER = PROTOS.parent / "build/client-stubs-compiler"
PYTHON_STUBS = Path("clients/python/cache_sidecar_client/v1")
"Relative to the project."
MOVED = {
    "from cache_sidecar.v1 import": "from cache_sidecar_client.v1 import",
    "from google.rpc import": "from cache_sidecar_client.v1.google.rpc import",
    "from google.type import": "from cache_sidecar_client.v1.google.type import",
    # The modules that pickle names.
    "'cache_sidecar.v1.": "'cache_sidecar_client.v1.",
    "'google.": "'cache_sidecar_client.v1.google.",
    # But a service has the name that is called, for an application's own server in its tests.
    "generic_handler(\n            'cache_sidecar_client.v1.": "generic_handler(\n            'cache_sidecar.v1.",
    # Not the default pool: an application may have other versions of google/rpc, or the server's package.
    "_descriptor_pool.Default()": "_pool.POOL",
    "from google.protobuf import descriptor_pool as _descriptor_pool\n": "from cache_sidecar_client.v1 import _pool\n",
}
COMPILE = "import sys; from grpc_tools import protoc; sys.exit(protoc.main(sys.argv))"


def python_stubs() -> dict[Path, str] | None:
    """Returns the stubs of the Python client, by path relative to the project; None if their compiler cannot be had."""
    if not (COMPILER_FOLDER / "grpc_tools").exists() and not _install_compiler():
        return None
    generated = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        protos = out / "protos"
        for path, text in client_protos().items():
            (out / path.relative_to("clients")).parent.mkdir(parents=True, exist_ok=True)
            (out / path.relative_to("clients")).write_text(text)
        sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
        includes = [f"-I{protos}", f"-I{COMPILER_FOLDER}/grpc_tools/_proto"]
        outputs = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        environment = os.environ | {"PYTHONPATH": str(COMPILER_FOLDER)}
        command = [sys.executable, "-c", COMPILE, *includes, *outputs, *sources]
        subprocess.run(command, check=True, env=environment, cwd=out)
        for path in sorted(out.rglob("*_pb2*.py*")):
            text = path.read_text()
            if "_pb2_grpc" in path.name and "Stub" not in text:
                continue
            for old, new in MOVED.items():
                text = text.replace(old, new)
            generated[PYTHON_STUBS / str(path.relative_to(out)).removeprefix("cache_sidecar/v1/")] = text
    return generated


def _install_compiler() -> bool:
    """Installs the compiler of the Python client's stubs, once; returns whether there is one for this Python."""
    uv = Path(sys.executable).parent / "uv"
    options = ["--python", sys.executable, "--target", str(COMPILER_FOLDER), "--no-deps", "--only-binary", ":all:"]
    pins = ["--require-hashes", "-r", str(COMPILER)]
    done = subprocess.run([uv, "pip", "install", "-q", *options, *pins], check=False, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        print(
            f"SKIPPED the stubs of the Python client: their compiler cannot be installed: {' '.join(reason)[:200]}",
            file=sys.stderr,
        )
    return not done.returncode
