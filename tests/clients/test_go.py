"""The Go client: its own tests, what its README prints, a module that uses it, its session middleware, and restarts."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.v1 import inventory_service_pb2 as inventory
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.clients import go_builds
from tests.clients.conftest import Place
from tests.clients.examples import Browser, blocks
from tests.clients.restarts import KILLS, keep_killing, note_report
from tests.interop.running import got
from tests.interop.running import run as run_program
from tests.interop.test_service_config import Serving
from tests.support.launch import without_retries

MODULE = "github.com/cache-sidecar/cache-sidecar/clients/go"
README = go_builds.MODULE / "README.md"
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with the programs and compiled tests."""
    return got(go_builds.GO)


@pytest.fixture
def address(places: dict[str, Place]) -> str:
    """Where a sidecar is."""
    return places["tcp"].environment["CONFORMANCE_ADDRESS"]


@pytest.mark.parametrize("package", go_builds.TESTED)
async def test_its_own_tests_pass(package: str, programs: Path) -> None:
    done = await run_program(programs / f"{package}.test", "-test.timeout=10m")
    assert done.code == 0, done.said + done.errors
    assert "DATA RACE" not in done.said + done.errors


async def test_vet_finds_nothing_and_the_code_is_formatted(programs: Path) -> None:
    go_builds.go("vet", "./...")
    gofmt = Path(go_builds.go("env", "GOROOT").strip()) / "bin/gofmt"
    done = await run_program(gofmt, "-l", go_builds.MODULE)
    assert (done.code, done.said) == (0, "")


async def test_the_generated_code_is_that_of_the_protos(programs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "go"
    shutil.copytree(go_builds.MODULE, copy)
    (tmp_path / "protos").symlink_to(go_builds.MODULE.parent / "protos")
    command = [sys.executable, copy / "tools/generate.py", "--check"]
    done = await run_program(*command)
    # What it downloads, Go says there, too.
    assert (done.code, re.sub(r"^go: downloading .*\n", "", done.errors, flags=re.MULTILINE)) == (0, "")
    (copy / "cachesidecarv1/cart.pb.go").write_text("")
    (copy / "cachesidecarv1/gone.pb.go").write_text("")
    done = await run_program(*command)
    assert done.code == 1
    assert re.findall(r"cachesidecarv1/(\S+) differs", done.errors) == ["cart.pb.go", "gone.pb.go"]


VALIDATES = """
package main

import (
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// An application may use protovalidate for messages of its own: its rules are in the program only once.
func init() {
	for _, err := range []error{
		protovalidate.Validate(&durationpb.Duration{Seconds: 1}),
		protovalidate.Validate(&pb.GetProductRequest{}),
	} {
		if err != nil {
			panic(err)
		}
	}
}
"""

MOD = f"""
module shop

go 1.26.0

require (
	buf.build/go/protovalidate v1.4.0
	{MODULE} v0.0.0
)

replace {MODULE} => {go_builds.MODULE}
"""


async def test_the_first_program_runs_in_a_module_that_also_uses_protovalidate(
    programs: Path, address: str, tmp_path: Path
) -> None:
    (tmp_path / "main.go").write_text(blocks(README, "go")[0])
    (tmp_path / "validates.go").write_text(VALIDATES)
    (tmp_path / "go.mod").write_text(MOD)
    # A GOPATH in which nothing is, but for the modules that were downloaded: they are read only.
    modules = go_builds.go("env", "GOMODCACHE").strip()
    clean = {"GOPATH": str(tmp_path / "gopath"), "GOMODCACHE": modules, "GOFLAGS": "-mod=mod"}
    try:
        go_builds.go("mod", "tidy", folder=tmp_path, **clean)
    except go_builds.GoFailed as error:
        pytest.skip(f"the modules cannot be had: {error}")
    go_builds.go("build", "-o", str(tmp_path / "shop"), ".", folder=tmp_path, **clean)
    for _ in range(2):  # the second time, the product is there already
        done = await run_program(tmp_path / "shop", CACHE_SIDECAR_ADDRESS=address)
        assert done.code == 0, done.errors
        assert done.said == blocks(README, "text")[0]


@pytest.fixture
async def example(programs: Path, address: str) -> AsyncIterator[str]:
    """The URL of the example with sessions."""
    process = await asyncio.create_subprocess_exec(
        programs / "sessions",
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PORT": "0", "CACHE_SIDECAR_ADDRESS": address},
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def test_the_example_keeps_sessions(example: str) -> None:
    browser, other = Browser(example), Browser(example)
    assert [await browser.ask() for _ in range(2)] == ["stranger, visit 1\n", "stranger, visit 2\n"]
    assert await other.ask() == "stranger, visit 1\n"
    before = browser.session
    assert before
    await browser.ask("login", form={"user": "ada"})
    assert browser.session not in {None, before}
    assert await browser.ask() == "ada, visit 3\n"
    # Who has the id from before the login has nothing.
    assert await Browser(example).ask(cookie=before) == "stranger, visit 1\n"
    after = browser.session
    assert after
    await browser.ask("logout", form={"all": "no"})
    assert browser.session is None
    assert await Browser(example).ask(cookie=after) == "stranger, visit 1\n"


async def test_restarts_lose_and_double_nothing(programs: Path, sidecar: Serving, engine: str) -> None:
    report = await keep_killing([str(programs / "restart")], sidecar, deadline=200)
    assert await reserved(sidecar.address) == report["reserved"]
    # The watch has told each update once, in their order, and nothing else.
    assert report["told"] == report["versions"]
    assert report["breaks"] >= KILLS
    note_report(f"go on {engine}", report)


async def reserved(address: str) -> int:
    """Returns how many pieces of the stock are reserved."""
    async with without_retries(address) as channel:
        stub: Any = InventoryServiceStub(channel)
        asked = inventory.GetInventoryRequest(product_id="go")
        asked.options.bypass = True
        return int((await stub.GetInventory(asked)).inventory.reserved)
