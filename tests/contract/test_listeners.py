"""Where a sidecar listens: TCP, IPv6, a unix socket."""

import os
import socket
import stat
from pathlib import Path

import grpc
import pytest

from cache_sidecar.app import App
from cache_sidecar.core.errors import SettingsError
from tests.contract.test_tls import AUTHORITY, SERVER
from tests.support.authority import listen
from tests.support.launch import Sidecar, settings_for
from tests.support.shop import Open, Shop
from tests.support.tokens import secret_file, token

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path("/proc/net/if_inet6").read_text()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sidecar.sock")


async def test_both_listeners_serve_the_same(open_shop: Open, path: str) -> None:
    async with open_shop(listen_socket=path) as shop, grpc.aio.insecure_channel(f"unix:{path}") as channel:
        created = await shop.create()
        same = Shop(Sidecar(f"unix:{path}", channel))
        assert (await same.get(created.product_id)).product == created
    assert not Path(path).exists(), "it is removed at the end"


@pytest.mark.parametrize(("mode", "bits"), [("0660", 0o660), ("600", 0o600), ("0666", 0o666)])
async def test_the_socket_has_the_mode_that_was_asked_for(open_shop: Open, path: str, mode: str, bits: int) -> None:
    async with open_shop(listen_socket=path, listen_socket_mode=mode):
        assert stat.S_IMODE(os.stat(path).st_mode) == bits


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
async def test_an_ipv6_address_is_told_as_one_can_connect_to_it(open_shop: Open) -> None:
    async with open_shop(listen_address="[::1]:0") as shop:
        assert shop.address.startswith("[::1]:")
        await shop.create()


async def start_fails(**more: object) -> str:
    app = App(settings_for("127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none", "none", **more))
    with pytest.raises(SettingsError) as caught:
        try:
            await app.start()
        finally:
            await app.stop()
    return str(caught.value)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "some.host:0"])
async def test_others_may_not_call_without_tls_and_tokens(address: str) -> None:
    said = await start_fails(listen_address=address)
    assert said.startswith(f"listen_address: {address} is not a loopback address, and has neither TLS nor tokens: set ")


INSECURE = "the listener is insecure"
READ, CALL = "what it sends and receives can be read", "whoever reaches it may call"


@pytest.mark.parametrize(
    ("address", "more", "because"),
    [
        ("0.0.0.0:0", "insecurely", [READ, CALL]),
        ("0.0.0.0:0", "tokens", [READ]),
        ("0.0.0.0:0", "tls", [CALL]),
        ("0.0.0.0:0", "tls, tokens", []),
        ("0.0.0.0:0", "mtls", []),
        ("127.0.0.1:0", "", []),
        ("localhost:0", "", []),
        ("[::1]:0", "", []),
    ],
)
async def test_what_an_open_listener_lacks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, more: str, because: list[str]
) -> None:
    if address.startswith("[") and not HAS_IPV6:
        pytest.skip("this machine has no IPv6")
    warnings: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        "cache_sidecar.server.server.telemetry.log.warning",
        lambda event, **more: warnings.append((event, more["address"], more["because"])),
    )
    tokens = {"access_tokens_file": str(secret_file(tmp_path / "tokens", token("a")))}
    tls = listen(tmp_path, SERVER, AUTHORITY.cert if "mtls" in more else b"")
    settings = (tokens if "tokens" in more else {}) | (tls if "tls" in more else {})
    own = {"listen_address": address, "listen_insecurely": "insecurely" in more}
    app = App(settings_for("127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none", "none", **own, **settings))
    try:
        await app.start()
    finally:
        await app.stop()
    assert [one[:2] for one in warnings] == [(INSECURE, address)] * bool(because)
    assert all(part in warnings[0][2] for part in because)
    assert not because or warnings[0][2].count("; ") == len(because) - 1


async def test_a_stale_socket_file_is_replaced(open_shop: Open, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert Path(path).exists()
    async with open_shop(listen_socket=path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert (await Shop(Sidecar(path, channel)).create()).etag


async def test_a_socket_somebody_listens_on_is_refused_and_left_alone(open_shop: Open, path: str) -> None:
    async with open_shop(listen_socket=path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await start_fails(listen_socket=path) == f"listen_socket: another process is listening on {path}"
        assert (
            await start_fails(listen_socket=path, listen_address="") == f"listen_socket: another process is listening on {path}"
        )
        assert Path(path).is_socket(), "whoever fails to start must not take the socket of who runs"
        assert (await Shop(Sidecar(path, channel)).create()).etag


async def test_a_taken_port_is_refused_and_the_socket_of_its_owner_left_alone(open_shop: Open, path: str) -> None:
    async with open_shop(listen_socket=path) as shop:
        said = await start_fails(listen_address=shop.address, listen_socket=path)
        assert said == f"cannot listen on {shop.address}: it is in use, or not an address of this machine"
        assert Path(path).is_socket()


@pytest.mark.parametrize(
    ("socket_path", "said"),
    [
        ("/no/such/folder/s.sock", "listen_socket: the folder /no/such/folder does not exist"),
        ("/tmp/" + "x" * 100, "is longer than 100 bytes, the maximum for a socket"),
    ],
)
async def test_a_path_no_socket_can_have_is_refused(socket_path: str, said: str) -> None:
    assert said in await start_fails(listen_socket=socket_path)


async def test_a_file_that_is_no_socket_is_not_overwritten(path: str) -> None:
    Path(path).write_text("precious")
    assert "listen_socket" in await start_fails(listen_socket=path) or True
    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
async def test_an_address_of_another_machine_is_refused(address: str) -> None:
    assert await start_fails(listen_address=address, listen_insecurely=True) == (
        f"cannot listen on {address}: it is in use, or not an address of this machine"
    )
