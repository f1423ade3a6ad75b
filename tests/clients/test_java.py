"""The client library in Java: its own tests, its artifacts in clean projects, one of them with Spring Boot, and its page."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import urllib.error
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.type.money_pb2 import Money

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2 import CreateProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from cache_sidecar.v1.session_service_pb2 import DeleteUserSessionsRequest
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceStub
from tests.clients import builds
from tests.clients.conftest import CLIENT
from tests.clients.examples import Browser, blocks, write_first_java
from tests.clients.restarts import check_told, keep_killing, note_report
from tests.interop.running import got, run
from tests.interop.test_service_config import Serving
from tests.support.authority import Authority, listen
from tests.support.free_ports import ChoosePorts
from tests.support.launch import PATIENT, process, without_retries
from tests.support.tokens import secret_file, token
from tests.support.until import until

README = builds.CLIENTS / "java/README.md"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder with the library, compiled."""
    return got(builds.JAVA)


@pytest.fixture(scope="session")
def installed(library: Path) -> Path:
    """The folder whose artifacts are installed."""
    return builds.installed_java(library)


@pytest.mark.usefixtures("installed")
async def test_the_first_program_runs_as_printed(tmp_path: Path, first_address: str) -> None:
    write_first_java(tmp_path, README)
    done = await run("java", "-cp", builds.compile_project(tmp_path), "First", CACHE_SIDECAR_ADDRESS=first_address)
    assert done.code == 0, done.errors
    (expected,) = blocks(README, "")
    assert re.sub("from L[12]", "from STORE", done.said) == expected


async def test_restarts_lose_and_double_nothing(library: Path, sidecar: Serving, engine: str) -> None:
    command = builds.java_command(library, "io.cachesidecar.client.conformance.Restart")
    report = await keep_killing(command, sidecar, deadline=120, prefix="java-")
    check_told(report)
    note_report(f"java on {engine}", report)


@pytest.fixture(scope="session")
def spring_shop(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of the example with Spring Boot, which knows the installed artifacts only, with requests to be held."""
    folder = tmp_path_factory.mktemp("spring") / "shop"
    shutil.copytree(installed / "examples/spring-boot", folder)
    shutil.copy(Path(__file__).parent / "frameworks/Together.java", folder / "src/main/java/shop")
    return builds.compile_project(folder)


@pytest.fixture
async def shop(spring_shop: str, sidecar: Serving) -> AsyncIterator[str]:
    """The URL of the example beside a sidecar that can be killed."""
    # What is read from a sidecar that is away fails after 20 s; what is written waits for it.
    deadlines = {"CACHESIDECAR_TIMEOUTS_READ": "20s", "CACHESIDECAR_TIMEOUTS_WRITE": "100s"}
    environment = os.environ | deadlines | {"PORT": "0", "CACHE_SIDECAR_ADDRESS": sidecar.address}
    program = await asyncio.create_subprocess_exec(
        "java", "-cp", spring_shop, "shop.Shop", stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert program.stdout is not None
    try:
        while not (line := (await program.stdout.readline()).decode()).startswith("http"):
            assert line, "the example has ended"
        # So that its log does not fill the pipe.
        reading = asyncio.create_task(program.stdout.read())
        yield line.strip()
    finally:
        program.kill()
        await program.wait()
    await reading


async def ask(browser: Browser, path: str = "", *, form: dict[str, str] | None = None, cookie: str = "") -> Any:
    return json.loads(await browser.ask(path, form=form, cookie=cookie) or "null")


async def failure(browser: Browser, path: str = "", *, form: dict[str, str] | None = None) -> tuple[int, Any]:
    """Returns the status and the answer of a request that fails."""
    with pytest.raises(urllib.error.HTTPError) as failed:
        await browser.ask(path, form=form)
    with failed.value as reply:
        return reply.code, json.loads(reply.read())


async def is_healthy(shop: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError):
        health = await ask(Browser(shop), "actuator/health")
        return bool(health["components"]["cacheSidecar"] == {"status": "UP"})
    return False


async def create_mug(address: str) -> None:
    async with without_retries(address) as channel:
        stub: Any = ProductServiceStub(channel)
        product = Product(product_id="mug", title="A mug", price=Money(currency_code="EUR", units=9, nanos=990_000_000))
        await stub.CreateProduct(CreateProductRequest(product=product))


async def test_the_spring_shop_keeps_sessions(shop: str, sidecar: Serving) -> None:
    await create_mug(sidecar.address)
    browser, other = Browser(shop), Browser(shop)
    assert await ask(browser) == {"visits": 1, "user": "stranger", "seen": []}
    assert (await ask(browser, "products/mug"))["price"] == "9.99 EUR"
    assert await ask(browser) == {"visits": 2, "user": "stranger", "seen": ["mug"]}
    assert (await ask(other))["visits"] == 1
    before = browser.session
    assert before
    await ask(browser, "login", form={"user": "ada"})
    assert browser.session not in {None, before}
    assert await ask(browser) == {"visits": 3, "user": "ada", "seen": ["mug"]}
    # Who has the ID from before the login has nothing.
    assert (await ask(Browser(shop), cookie=before))["visits"] == 1
    assert await ask(browser, "cart/mug", form={"quantity": "2"}) == {"quantity": 2, "total": "19.98 EUR"}
    after = browser.session
    assert after
    # The session is the user's, and whoever ends all of them logs the browser out.
    async with without_retries(sidecar.address) as channel:
        stub: Any = SessionServiceStub(channel)
        ended = await stub.DeleteUserSessions(DeleteUserSessionsRequest(user_id="ada"))
    assert ended.deleted == 1
    assert (await ask(Browser(shop), cookie=after))["visits"] == 1
    await ask(other, "logout", form={})
    assert other.session is None


class Visitor:
    """A browser whose session has two attributes, and which makes requests at once, as tabs do."""

    def __init__(self, shop: str) -> None:
        self.browser = Browser(shop)
        self._held = 0

    async def change(self, name: str, value: str, **more: str) -> None:
        await ask(self.browser, "attributes", form={"name": name, "value": value} | more)

    async def attributes(self, cookie: str = "") -> dict[str, str]:
        found: dict[str, str] = await ask(self.browser, "attributes", cookie=cookie)
        return found

    @contextlib.asynccontextmanager
    async def holds(self, name: str, value: str, **more: str) -> AsyncIterator[None]:
        """A request that has read the session on entry, and changes and saves it on exit."""
        self._held += 1
        gate = f"{id(self)}-{self._held}"
        held = asyncio.create_task(self.change(name, value, gate=gate, **more))
        others = Browser(self.browser.url)
        await others.ask(f"gates/{gate}")
        yield
        await others.ask(f"gates/{gate}", form={})
        await held


@pytest.fixture
async def visitor(shop: str) -> Visitor:
    visitor = Visitor(shop)
    await visitor.change("text", "0")
    await visitor.change("object", "0", asObject="true")
    return visitor


async def test_requests_at_once_keep_each_others_changes(visitor: Visitor) -> None:
    async with visitor.holds("a", "1"), visitor.holds("b", "2", asObject="true"), visitor.holds("text", "3", asObject="true"):
        await visitor.change("c", "4", asObject="true")
        await visitor.change("d", "5")
        await visitor.change("object", "6")
    assert await visitor.attributes() == {"a": "1", "b": "[2]", "c": "[4]", "d": "5", "object": "6", "text": "[3]"}


async def test_of_one_attribute_the_value_saved_last_stays(visitor: Visitor) -> None:
    async with visitor.holds("object", "1", asObject="true"), visitor.holds("text", "2"), visitor.holds("both", "3"):
        await visitor.change("object", "4", asObject="true")
        await visitor.change("text", "5")
        await visitor.change("both", "6", asObject="true")
    assert await visitor.attributes() == {"object": "[1]", "text": "2", "both": "3"}


async def test_what_changes_while_the_id_does_is_kept_and_the_old_id_is_worthless(visitor: Visitor) -> None:
    old = visitor.browser.session
    assert old
    async with visitor.holds("a", "1"), visitor.holds("b", "2", asObject="true"):
        await visitor.change("c", "3", then="rotate")
        new = visitor.browser.session
        assert new not in {None, old}
    # Their replies have not brought the old ID back, nor told the new one to who has the old one.
    assert visitor.browser.session == new
    assert await visitor.attributes() == {"text": "0", "object": "[0]", "a": "1", "b": "[2]", "c": "3"}
    assert await visitor.attributes(cookie=old) == {}


async def test_a_logout_under_the_id_from_before_ends_the_session(visitor: Visitor) -> None:
    async with visitor.holds("a", "1", then="invalidate"):
        await visitor.change("c", "2", then="rotate")
        new = visitor.browser.session
        assert new
        assert await visitor.attributes() == {"text": "0", "object": "[0]", "c": "2"}
    assert await visitor.attributes(cookie=new) == {}


async def test_no_change_brings_back_a_session_that_has_ended(visitor: Visitor) -> None:
    ended = visitor.browser.session
    assert ended
    async with visitor.holds("a", "1"), visitor.holds("b", "2", asObject="true"):
        await visitor.change("c", "3", then="invalidate")
    assert await visitor.attributes(cookie=ended) == {}
    # What they set is nowhere else, either.
    assert await visitor.attributes() == {}


async def test_the_spring_shop_answers_errors_by_their_status(shop: str, sidecar: Serving) -> None:
    await create_mug(sidecar.address)
    browser = Browser(shop)
    code, said = await failure(browser, "products/none")
    assert (code, said["reason"], said["values"]) == (404, "NOT_FOUND", {"resource": "product", "id": "none"})
    code, said = await failure(browser, "cart/mug", form={"quantity": "1000"})
    assert (code, said["reason"]) == (409, "LIMIT_REACHED")


async def test_the_spring_shop_lives_through_a_restart(shop: str, sidecar: Serving) -> None:
    await create_mug(sidecar.address)
    browser = Browser(shop)
    assert (await ask(browser))["visits"] == 1
    await until(lambda: is_healthy(shop))
    await sidecar.end(signal.SIGKILL)
    # As a probe asks, which has no session.
    code, said = await failure(Browser(shop), "actuator/health")
    assert (code, said["components"]["cacheSidecar"]) == (503, {"status": "DOWN"})
    # Of a session that cannot be read there is no page, and none that says that it was kept.
    code, said = await failure(browser)
    assert (code, said["reason"]) == (504, "DEADLINE_EXCEEDED")
    # A visitor without one has to wait until there is a sidecar to keep it, and then has it.
    late = Browser(shop)
    waiting = asyncio.create_task(ask(late))
    await sidecar.start()
    assert (await waiting)["visits"] == 1
    assert (await ask(late))["visits"] == 2
    assert (await ask(browser))["visits"] == 2
    meter = await ask(browser, "actuator/metrics/cache.sidecar.client.calls?tag=method:SessionService/GetSession&tag=code:OK")
    counts = {one["statistic"]: one["value"] for one in meter["measurements"]}
    assert counts["COUNT"] >= 2
    assert (await ask(browser, "actuator/metrics/cache.sidecar.client.retries"))["name"] == "cache.sidecar.client.retries"


@contextlib.asynccontextmanager
async def secured(config: dict[str, Any], folder: Path) -> AsyncIterator[None]:
    """Runs a sidecar that nobody without a certificate can ask whether it serves."""
    async with process("serve", folder, config) as started:
        await until(lambda: '"serving"' in started.log.read_text())
        yield


async def test_certificates_and_tokens_are_read_again(
    library: Path,
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    choose_ports: ChoosePorts,
    tmp_path: Path,
    engine: str,
) -> None:
    old, new = Authority("the old one"), Authority("the new one")
    mine = {name: tmp_path / f"client-{name}" for name in ("ca", "cert", "key", "token")}
    own(mine, old, "old")
    tokens = secret_file(tmp_path / "tokens", f"shop app {token('old')}\n")
    config = PATIENT | {
        "listen_address": f"127.0.0.1:{choose_ports(1)[0]}",
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
        "engine": engine,
        "allowed_clients": f"{CLIENT} app",
        "access_tokens_file": str(tokens),
        **listen(tmp_path, old.server(), old.cert),
    }
    environment = {f"CONFORMANCE_{name.upper()}": str(mine[name]) for name in ("ca", "cert", "key")} | {
        "CONFORMANCE_ADDRESS": config["listen_address"],
        "CONFORMANCE_SERVER_NAME": "localhost",
        "CONFORMANCE_TOKEN_FILE": str(mine["token"]),
    }
    program = await asyncio.create_subprocess_exec(
        *builds.java_command(library, "io.cachesidecar.client.conformance.Credentials"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    assert program.stdin is not None
    assert program.stdout is not None

    async def call() -> str:
        program.stdin.write(b"\n")
        return (await program.stdout.readline()).decode().strip()

    try:
        async with secured(config, tmp_path):
            assert await call() == "NotFound"
        # In the middle of a rotation, a certificate and a key do not belong together, and there is half a CA.
        mine["cert"].write_bytes(new.client(CLIENT).cert)
        mine["ca"].write_bytes(new.cert[: len(new.cert) // 2])
        mine["token"].write_bytes(b"")
        for _ in range(2):
            async with secured(config, tmp_path):
                assert await call() == "NotFound"
        # A sidecar that trusts nothing of what was before.
        own(mine, new, "new")
        listen(tmp_path, new.server(), new.cert)
        tokens.write_text(f"shop app {token('new')}\n")
        async with secured(config, tmp_path):
            assert await call() == "NotFound"
        said = (await program.communicate(b""))[1].decode()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    for name in ("ca", "cert", "token"):
        assert len(re.findall(rf"\[[^]]*{mine[name]}\b[^]]*\] changed and cannot be used", said)) == 1, said


def own(files: dict[str, Path], authority: Authority, name: str) -> None:
    """Writes what a client needs into its files."""
    pair = authority.client(CLIENT)
    for file, content in {"ca": authority.cert, "cert": pair.cert, "key": pair.key, "token": token(name)}.items():
        secret_file(files[file], content)
