"""TLS files are replaced under a running client: new connections use them, and the old ones while they cannot be used."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import cache_sidecar_client
import pytest
from cache_sidecar_client import Options, ProductChange, aio

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.clients import builds, go_builds
from tests.clients.conftest import CLIENT, relay_of
from tests.clients.test_restart import Client
from tests.contract.test_tls import shown
from tests.interop.running import got
from tests.support.authority import Authority, Pair, listen
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process
from tests.support.proxy import Proxy
from tests.support.tokens import secret_file
from tests.support.until import until

IGNORED = "TLS files are ignored, those from before stay in use"
pytestmark = pytest.mark.timeout(600)


class Place:
    """A sidecar that wants certificates, and the files of its client."""

    def __init__(self, folder: Path, proxy: Proxy, authority: Authority) -> None:
        self.folder = folder
        self.proxy = proxy
        "Between the client and the sidecar: cut, it makes the client connect anew."
        self.files = {name: str(folder / f"client-{name}") for name in ("ca", "cert", "key")}
        self.give_client(authority)

    def give_client(self, authority: Authority) -> Pair:
        """Writes all files of a client, as one authority signs them."""
        pair = authority.client(CLIENT)
        for name, content in {"ca": authority.cert, "cert": pair.cert, "key": pair.key}.items():
            secret_file(Path(self.files[name]), content)
        return pair

    async def give_server(self, authority: Authority) -> None:
        """Makes the sidecar present a certificate of an authority, and accept no others."""
        pair = authority.server()
        listen(self.folder, pair, authority.cert)

        async def is_shown() -> bool:
            return await shown(self.proxy.target) == pair.cert

        await until(is_shown)

    async def cut(self) -> None:
        """Ends all connections; new ones can be made."""
        self.proxy.cut()
        await self.proxy.heal()


@pytest.fixture
def authorities() -> tuple[Authority, Authority]:
    """The one that signed the first certificates, and the next one, which nobody trusts yet."""
    return Authority("old"), Authority("new")


@pytest.fixture
async def place(
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    choose_ports: ChoosePorts,
    tmp_path: Path,
    authorities: tuple[Authority, Authority],
) -> AsyncIterator[Place]:
    """A sidecar and its relay."""
    old, _ = authorities
    config = {
        "listen_address": f"127.0.0.1:{choose_ports(1)[0]}",
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
        "allowed_clients": f"{CLIENT} app",
        "postgres_timeout": 60.0,
        "redis_timeout": 5.0,
        **listen(tmp_path, old.server(), old.cert),
    }
    async with (
        relay_of(config, tmp_path),
        process("serve", tmp_path, config) as sidecar,
        Proxy(config["listen_address"]) as proxy,
    ):
        await until(lambda: '"serving"' in sidecar.log.read_text())
        yield Place(tmp_path, proxy, old)


class Shop(NamedTuple):
    """A running client."""

    ask: Callable[[], Any]
    "Returns, by a call, the reason why a product cannot be had."
    lines: Callable[[], int]
    "Returns how often it has logged that files are ignored."


async def check_rotation(shop: Shop, place: Place, old: Authority, new: Authority) -> None:
    """Replaces all files, one after the other, and makes the client connect after each."""
    assert await shop.ask() == "NOT_FOUND"
    # The new certificate is there, its key is not, and the CA is not even a file.
    secret_file(Path(place.files["cert"]), new.client(CLIENT).cert)
    Path(place.files["ca"]).unlink()

    async def is_logged() -> bool:
        await place.cut()
        assert await shop.ask() == "NOT_FOUND"
        return shop.lines() > 0

    await until(is_logged)
    # Half of the CA.
    Path(place.files["ca"]).write_bytes(new.cert[: len(new.cert) // 2])
    for _ in range(3):
        await place.cut()
        assert await shop.ask() == "NOT_FOUND"
    assert shop.lines() == 1

    await place.give_server(new)
    place.give_client(new)
    await place.cut()
    # Nobody else can be served now.
    assert await shop.ask() == "NOT_FOUND"
    assert shop.lines() == 1


@contextlib.asynccontextmanager
async def program(command: list[str], place: Place) -> AsyncIterator[Shop]:
    """Runs a library's program."""
    named = {f"CONFORMANCE_{name.upper()}": path for name, path in place.files.items()}
    log = place.folder / "program.log"
    with log.open("w") as errors:
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=os.environ | named | {"CONFORMANCE_ADDRESS": place.proxy.address},
        )
    assert running.stdin is not None
    assert running.stdout is not None
    asking, answers = running.stdin, running.stdout

    async def ask() -> str:
        asking.write(b"\n")
        return (await answers.readline()).decode().strip() or log.read_text()

    try:
        yield Shop(ask, lambda: log.read_text().count(IGNORED))
        asking.close()
        assert await running.wait() == 0
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def test_go(place: Place, authorities: tuple[Authority, Authority]) -> None:
    async with program([str(got(go_builds.GO) / "rotation")], place) as shop:
        await check_rotation(shop, place, *authorities)


async def test_typescript(place: Place, authorities: tuple[Authority, Authority]) -> None:
    async with program(["node", str(got(builds.TYPESCRIPT) / "build/conformance/rotation.js")], place) as shop:
        await check_rotation(shop, place, *authorities)


@pytest.mark.parametrize("style", ["asyncio", "sync"])
async def test_python(
    style: str, place: Place, authorities: tuple[Authority, Authority], caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(style, place.proxy.address, **place.files)

    async def ask() -> str:
        with pytest.raises(cache_sidecar_client.NotFound) as caught:
            await client.call(client.shop.products.get, "none")
        return caught.value.reason

    await check_rotation(Shop(ask, lambda: caplog.text.count(IGNORED)), place, *authorities)
    await client.close()


@pytest.mark.parametrize("style", ["asyncio", "sync"])
async def test_a_watch_goes_on_when_the_files_change(
    style: str, place: Place, authorities: tuple[Authority, Authority]
) -> None:
    client = Client(style, place.proxy.address, **place.files)
    shop: Any = client.shop
    events: list[ProductChange] = []
    watching = asyncio.create_task(client.changes(events))
    await until(lambda: events)
    await client.call(shop.products.create, "mug", title="A", price="1 EUR")
    # Signed anew by the same authority.
    place.give_client(authorities[0])

    async def is_connected_anew() -> bool:
        await client.call(shop.products.get, "mug")
        return place.proxy.connections == 2

    await until(is_connected_anew)
    await client.call(shop.products.update, "mug", title="B")
    await until(lambda: [event.kind for event in events] == ["WATCH_STARTED", "CREATED", "UPDATED"])
    # The line from before ends with its last call: here with the connection of the watch, which is resumed on the other one.
    await place.cut()
    await client.call(shop.products.update, "mug", title="C")
    await until(lambda: [event.kind for event in events][3:] == ["UPDATED"])
    assert not any(event.missed for event in events)
    await until(lambda: place.proxy.connections == 1)
    await client.close()
    with contextlib.suppress(cache_sidecar_client.errors.ClientClosed):
        await watching


async def test_files_that_cannot_be_used_are_reported_at_the_start(
    tmp_path: Path, authorities: tuple[Authority, Authority]
) -> None:
    pair = authorities[0].client(CLIENT)
    files = {name: tmp_path / name for name in ("ca", "cert", "key")}
    contents = {"ca": authorities[0].cert, "cert": pair.cert, "key": pair.key}
    said = {"ca": "ca has no whole certificates in PEM", "cert": "are not a certificate and its key", "key": "are not a cert"}
    for cut, words in said.items():
        for name, content in contents.items():
            files[name].write_bytes(content[:100] if name == cut else content)
        options = Options(address="127.0.0.1:1", **{name: str(path) for name, path in files.items()})
        for connect in (cache_sidecar_client.connect, aio.connect):
            with pytest.raises(ValueError, match=words):
                connect(options=options)
    files["key"].unlink()
    with pytest.raises(FileNotFoundError, match="key"):
        cache_sidecar_client.connect(options=options)
