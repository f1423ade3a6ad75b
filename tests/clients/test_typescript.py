"""The client library in TypeScript: its own tests, its package in a clean project, and what its pages say."""

import asyncio
import json
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import builds
from tests.clients.conftest import Place
from tests.clients.examples import Browser, blocks
from tests.clients.restarts import check_told, keep_killing, note_report
from tests.interop.running import got, run
from tests.interop.test_service_config import Serving

FOLDER = builds.CLIENTS / "typescript"
README = FOLDER / "README.md"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def package() -> Path:
    """The folder with the package, built."""
    return got(builds.TYPESCRIPT)


async def test_its_own_tests_pass(package: Path) -> None:
    done = await run("node", "--test", *sorted((package / "build/test").glob("*.test.js")))
    assert done.code == 0, done.said


async def test_the_generated_code_is_that_of_the_protos(package: Path, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "src/gen", tmp_path / "typescript/src/gen")
    shutil.copy(FOLDER / "generate.py", tmp_path / "typescript")
    (tmp_path / "typescript/node_modules").symlink_to(package / "node_modules")
    (tmp_path / "protos").symlink_to(builds.CLIENTS / "protos")
    done = await run(sys.executable, tmp_path / "typescript/generate.py", "--check")
    assert (done.code, done.errors) == (0, "")
    (tmp_path / "typescript/src/gen/cache_sidecar/v1/cart_pb.ts").write_text("")
    assert (await run(sys.executable, tmp_path / "typescript/generate.py", "--check")).code == 1


def test_the_lock_file_names_no_host() -> None:
    lock = (FOLDER / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock


async def test_the_package_is_as_its_kind_should_be(package: Path, tmp_path: Path) -> None:
    packed = await run("sh", "-c", f"cd {package} && npm pack --ignore-scripts --silent --pack-destination {tmp_path}")
    assert packed.code == 0, packed.errors
    (archive,) = tmp_path.glob("*.tgz")
    for check in ("publint --strict --pack false", f"attw {archive} --profile esm-only"):
        done = await run("sh", "-c", f"cd {package} && npx {check}")
        assert done.code == 0, done.said + done.errors


@pytest.fixture
async def project(package: Path, tmp_path: Path) -> Path:
    """A clean project in which the packed package is installed."""
    new = tmp_path / "project"
    new.mkdir()
    (new / "package.json").write_text('{"name": "app", "version": "1.0.0", "type": "module", "private": true}')
    packed = await run("sh", "-c", f"cd {package} && npm pack --ignore-scripts --silent --pack-destination {new}")
    assert packed.code == 0, packed.errors
    name = packed.said.strip().splitlines()[-1]
    installed = await run("sh", "-c", f"cd {new} && npm install --silent --no-audit --no-fund ./{name}")
    assert installed.code == 0, installed.errors
    return new


async def test_the_first_program_runs_as_printed(project: Path, first_address: str) -> None:
    (project / "first.js").write_text(blocks(README, "js")[0])
    done = await run("node", project / "first.js", CACHE_SIDECAR_ADDRESS=first_address)
    assert done.code == 0, done.errors
    (expected,) = blocks(README, "")
    assert re.sub(r"from l[12]", "from store", done.said) == expected


@pytest.fixture
async def example(package: Path, places: dict[str, Place]) -> AsyncIterator[str]:
    """The URL of the example with Express."""
    environment = {"PATH": str(Path(shutil.which("node") or "").parent), "PORT": "0"}
    environment["CACHE_SIDECAR_ADDRESS"] = places["tcp"].environment["CONFORMANCE_ADDRESS"]
    process = await asyncio.create_subprocess_exec(
        "node", str(package / "build/examples/express.js"), stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def ask(browser: Browser, path: str = "", body: Any = None, *, cookie: str = "") -> Any:
    return json.loads(await browser.ask(path, body=body, cookie=cookie))


async def test_the_example_with_express_keeps_sessions(example: str) -> None:
    browser, other = Browser(example), Browser(example)
    assert (await ask(browser))["visits"] == 1
    assert (await ask(browser))["visits"] == 2
    assert (await ask(other))["visits"] == 1
    before = browser.session
    await ask(browser, "login", {"user": "ada"})
    assert browser.session not in {None, before}
    assert await ask(browser) == {"visits": 3, "user": "ada"}
    assert await ask(Browser(example), cookie=before) == {"visits": 1, "user": ""}
    await ask(browser, "logout", {})
    assert browser.session is None
    with pytest.raises(urllib.error.HTTPError) as failed:
        await ask(browser, "products/none")
    with failed.value as reply:
        assert reply.code == 404


async def test_restarts_lose_and_double_nothing(package: Path, sidecar: Serving, engine: str) -> None:
    command = ["node", str(package / "build/conformance/restart.js")]
    report = await keep_killing(command, sidecar, deadline=120, prefix="typescript-")
    check_told(report)
    note_report(f"typescript on {engine}", report)
