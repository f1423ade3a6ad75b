"""Stubs without a library: the programs of their page run as printed, and applications can load the protos beside their own."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from tests.clients import stub_builds
from tests.clients.examples import blocks
from tests.clients.programs import ruby
from tests.clients.stub_builds import PAGE, PROTOS
from tests.interop.running import got, run

_OPTIONS = {
    "csharp_namespace": "CacheSidecar.V1",
    "go_package": "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1",
    "java_package": "io.cachesidecar.v1",
    "objc_class_prefix": "CSC",
    "php_metadata_namespace": r"CacheSidecar\V1\Metadata",
    "php_namespace": r"CacheSidecar\V1",
    "ruby_package": "CacheSidecar::V1",
}


async def test_the_program_in_ruby_runs_as_printed(first_address: str) -> None:
    folder = got(stub_builds.RUBY)
    done = await run("env", "-C", folder, *ruby("shop.rb"), CACHE_SIDECAR_ADDRESS=first_address)
    assert (done.code, done.errors) == (0, "")
    assert [done.said] == blocks(PAGE, "text")


async def test_the_program_in_rust_runs_as_printed(first_address: str) -> None:
    done = await run(got(stub_builds.RUST) / "shop", CACHE_SIDECAR_ADDRESS=first_address)
    assert (done.code, done.errors) == (0, "")
    assert [done.said] == blocks(PAGE, "text")


def test_the_program_in_rust_has_the_crates_of_its_page() -> None:
    manifest = tomllib.loads((stub_builds.PROGRAMS / "rust/shop/Cargo.toml").read_text())
    added, _ = stub_builds.commands("Rust")
    normal, build = (re.sub(r"cargo add|--build|--features \S+", "", command).split() for command in added.split("&&"))
    assert (set(normal), set(build)) == (set(manifest["dependencies"]), set(manifest["build-dependencies"]))


async def test_the_programs_in_rust_are_formatted() -> None:
    done = await run("cargo", "fmt", "--all", "--check", "--manifest-path", got(stub_builds.RUST) / "source/Cargo.toml")
    assert (done.code, done.said) == (0, "")


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    """The protos of applications, compiled: nothing but they are there to be imported, and what compilers bring."""
    out = tmp_path_factory.mktemp("descriptors") / "set"
    sources = [str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")]
    assert protoc.main(["protoc", f"-I{PROTOS}", f"-I{_well_known()}", "--include_imports", f"-o{out}", *sources]) == 0
    return FileDescriptorSet.FromString(out.read_bytes())


def _well_known() -> Path:
    return Path(protoc.__file__).parent / "_proto"


def test_the_protos_have_the_names_of_each_language(descriptors: FileDescriptorSet) -> None:
    ours = [file for file in descriptors.file if file.package == "cache_sidecar.v1"]
    assert len(ours) == len(list(PROTOS.glob("cache_sidecar/v1/*.proto")))
    for file in ours:
        assert {name: getattr(file.options, name) for name in _OPTIONS} == _OPTIONS, file.name
        assert file.options.java_multiple_files, file.name


def test_the_protos_have_no_validation_rules_nor_other_options_of_their_own(descriptors: FileDescriptorSet) -> None:
    assert not [file.name for file in descriptors.file if file.name.startswith("buf/")]
    # Options that are not protobuf's own are extensions: unknown fields here, where their proto is not loaded.
    known = FileDescriptorSet.FromString(descriptors.SerializeToString())
    known.DiscardUnknownFields()
    assert known.SerializeToString() == descriptors.SerializeToString()
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= {file.name for file in descriptors.file}


_APPLICATION = """
import grpc  # its stubs need it
import protovalidate
from cache_sidecar.v1 import product_service_pb2, product_service_pb2_grpc
from google.rpc import error_details_pb2
from cache_sidecar_client.v1 import product_service_pb2 as library
from shop_pb2 import Article

try:
    protovalidate.validate(Article(sku=""))
except protovalidate.ValidationError as error:
    print(error.violations[0].proto.rule_id)
for stubs in (product_service_pb2, library):
    protovalidate.validate(stubs.GetProductRequest())
    print(protovalidate.collect_violations(stubs.GetProductRequest()))
"""
_ARTICLE = """
syntax = "proto3";
import "buf/validate/validate.proto";
message Article {
  string sku = 1 [(buf.validate.field).string.min_len = 1];
}
"""


async def test_an_application_in_python_that_uses_protovalidate_can_load_the_stubs(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APPLICATION)
    (tmp_path / "shop.proto").write_text(_ARTICLE)
    # Another version than that of the sidecar, and than that in the package of protovalidate, whose names are its own.
    rules = (stub_builds.CLIENTS.parent / "protos/buf/validate/validate.proto").read_text()
    (tmp_path / "buf/validate").mkdir(parents=True)
    (tmp_path / "buf/validate/validate.proto").write_text(f"{rules}\nmessage OfAnotherVersion {{}}\n")
    stubs = [str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")]
    out = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    for folder, sources in ((PROTOS, stubs), (tmp_path, ["shop.proto", "buf/validate/validate.proto"])):
        done = await run(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", *out, *sources)
        assert done.code == 0, done.errors
    # The folder of the script comes first: this `cache_sidecar` has the stubs, and is not the sidecar's.
    done = await run("env", "-C", tmp_path, sys.executable, "app.py")
    assert done.code == 0, done.errors
    assert done.said == "string.min_len\n[]\n[]\n"
