"""TLS and mTLS: who gets in, new certificates without a restart, and what services see of a client."""

import asyncio
import contextlib
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from cache_sidecar.server.tls import Tls
from tests.contract.who import METHODS, ask, hosted
from tests.support.authority import Authority, Pair, listen
from tests.support.shop import Open
from tests.support.until import DEADLINE, until

AUTHORITY = Authority()
SERVER = AUTHORITY.server()
NAMES = [
    x509.DNSName("cart.shop"),
    x509.UniformResourceIdentifier("spiffe://shop/cart"),
    x509.RFC822Name("cart@shop.example"),
    x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    x509.DNSName("other.shop"),
]


def credentials(pair: Pair | None = None, *, ca: bytes = AUTHORITY.cert) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca, *((pair.key, pair.cert) if pair else ()))


def tls(folder: Path, pair: Pair = SERVER, client_ca: bytes = b"") -> Tls:
    return Tls(*listen(folder, pair, client_ca).values())


def context(pair: Pair | None = None, *, alpn: str = "h2", folder: Path | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=AUTHORITY.cert.decode())
    if alpn:
        made.set_alpn_protocols([alpn])
    if pair and folder:
        file = folder / "client.pem"
        file.write_bytes(pair.cert + pair.key)
        made.load_cert_chain(file)
    return made


async def shown(address: str) -> bytes:
    """Returns the certificate that a new handshake sees, in PEM."""
    untrusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    untrusting.check_hostname, untrusting.verify_mode = False, ssl.CERT_NONE
    untrusting.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=untrusting)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ssl.SSLError, OSError):
        await writer.wait_closed()
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def is_refused(address: str, channel_credentials: grpc.ChannelCredentials) -> None:
    async with grpc.aio.secure_channel(address, channel_credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", METHODS)
async def test_a_client_by_tls_is_served(engine: str, tmp_path: Path, method: str) -> None:
    async with hosted(engine, tls(tmp_path)) as address, grpc.aio.secure_channel(address, credentials()) as channel:
        seen = await ask(channel, method)
        assert seen["peer"].startswith("ipv4:127.0.0.1:")
        assert (seen["key"], seen["identities"]) == (None, None)
        assert seen["properties"] == {
            "transport_security_type": ["ssl"],
            "security_level": ["TSI_PRIVACY_AND_INTEGRITY"],
            "ssl_session_reused": ["false"],
        }


async def test_without_tls_services_see_the_address(engine: str) -> None:
    async with hosted(engine) as address, grpc.aio.insecure_channel(address) as channel:
        seen = [await ask(channel, method) for method in METHODS]
    assert {one["peer"] for one in seen} == {seen[0]["peer"]}, "one connection"
    assert seen[0]["peer"].startswith("ipv4:127.0.0.1:")
    for one in seen:
        assert (one["key"], one["identities"]) == (None, None)
        assert one["properties"] == {"transport_security_type": ["insecure"], "security_level": ["TSI_SECURITY_NONE"]}


async def test_services_see_who_the_client_is(engine: str, tmp_path: Path) -> None:
    client = AUTHORITY.signed("the cart", NAMES)
    served = tls(tmp_path, client_ca=AUTHORITY.cert)
    async with hosted(engine, served) as address, grpc.aio.secure_channel(address, credentials(client)) as channel:
        for method in METHODS:
            seen = await ask(channel, method)
            assert seen["peer"].startswith("ipv4:127.0.0.1:")
            assert seen["key"] == "x509_subject_alternative_name"
            names = ["cart.shop", "spiffe://shop/cart", "cart@shop.example", "10.0.0.1", "2001:db8::1", "other.shop"]
            assert seen["identities"] == names
            # As grpc.aio says it.
            assert seen["properties"] == {
                "transport_security_type": ["ssl"],
                "security_level": ["TSI_PRIVACY_AND_INTEGRITY"],
                "ssl_session_reused": ["false"],
                "x509_subject": [r"CN=the cart,O=A \"shop\"\, the \C3\A9"],
                "x509_common_name": ["the cart"],
                "x509_pem_cert": [client.cert.decode()],
                "x509_subject_alternative_name": names,
                "peer_dns": ["cart.shop", "other.shop"],
                "peer_uri": ["spiffe://shop/cart"],
                "peer_email": ["cart@shop.example"],
                "peer_ip": ["10.0.0.1", "2001:db8::1"],
                "peer_spiffe_id": ["spiffe://shop/cart"],
            }


async def test_a_certificate_without_other_names_is_known_by_its_common_name(engine: str, tmp_path: Path) -> None:
    served = tls(tmp_path, client_ca=AUTHORITY.cert)
    channel_credentials = credentials(AUTHORITY.client(common_name="the cart"))
    async with hosted(engine, served) as address, grpc.aio.secure_channel(address, channel_credentials) as channel:
        seen = await ask(channel)
        assert (seen["key"], seen["identities"]) == ("x509_common_name", ["the cart"])


async def test_a_client_cannot_pass_for_another_connection(engine: str, tmp_path: Path) -> None:
    async with (
        hosted(engine) as address,
        grpc.aio.insecure_channel(address) as first,
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        mine = (await ask(first))["peer"]
        for method in METHODS:
            seen = await ask(other, method, metadata=[("cache-sidecar-connection", "0"), ("x-mine", "1")])
            assert seen["peer"] != mine
            if engine == "native":
                assert "cache-sidecar-connection" not in seen["metadata"]
            assert "x-mine" in seen["metadata"]


async def test_mtls_takes_only_clients_with_a_certificate_of_the_authority(engine: str, tmp_path: Path) -> None:
    async with hosted(engine, tls(tmp_path, client_ca=AUTHORITY.cert)) as address:
        await is_refused(address, credentials())
        await is_refused(address, credentials(Authority("a stranger").client("cart.shop")))
        async with grpc.aio.secure_channel(address, credentials(AUTHORITY.client("cart.shop"))) as channel:
            assert (await ask(channel))["identities"] == ["cart.shop"]


async def test_who_speaks_no_tls_is_refused(engine: str, tmp_path: Path) -> None:
    async with hosted(engine, tls(tmp_path)) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("alpn", ["http/1.1", ""])
async def test_who_does_not_offer_http2_is_refused(engine: str, tmp_path: Path, alpn: str) -> None:
    async with hosted(engine, tls(tmp_path)) as address:
        host, _, port = address.rpartition(":")

        async def answer() -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context(alpn=alpn))
            try:
                return await asyncio.wait_for(reader.read(1), DEADLINE)
            finally:
                writer.close()

        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert await answer() == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_are_spoken(engine: str, tmp_path: Path, version: ssl.TLSVersion) -> None:
    made = context()
    made.minimum_version = made.maximum_version = version
    async with hosted(engine, tls(tmp_path)) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=made)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        assert len(await asyncio.wait_for(reader.read(1), DEADLINE)) == 1, "SETTINGS"
        writer.close()


async def test_a_slow_handshake_holds_nobody_up(engine: str, tmp_path: Path) -> None:
    async with hosted(engine, tls(tmp_path)) as address:
        host, _, port = address.rpartition(":")
        writers = []
        for begun in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(begun)
            writers.append(writer)
        async with grpc.aio.secure_channel(address, credentials()) as channel:
            assert await ask(channel)
        for writer in writers:
            writer.close()


def swap(folder: Path, pair: Pair, client_ca: bytes = b"") -> dict[str, str]:
    """Writes files as the kubelet does: links to a link to a folder, which is another one at once."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir()
    names = listen(version, pair, client_ca)
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..next").symlink_to(version.name)
    (folder / "..next").rename(folder / "..data")
    return {name: str(folder / name) for name in names}


async def test_a_new_certificate_is_shown_and_connections_go_on(open_shop: Open, tmp_path: Path) -> None:
    settings = swap(tmp_path, SERVER)
    async with open_shop(credentials=credentials(), **settings) as shop:
        id = (await shop.create()).product_id
        assert await shown(shop.address) == SERVER.cert
        new = AUTHORITY.server("new.example")
        swap(tmp_path, new)
        await until(lambda: is_shown(shop.address, new))
        assert (await shop.get(id)).product.product_id == id, "on the connection from before"


async def is_shown(address: str, pair: Pair) -> bool:
    return await shown(address) == pair.cert


async def test_files_that_cannot_be_used_change_nothing(
    open_shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr("cache_sidecar.server.tls.telemetry.log.error", lambda _, **more: said.append(more["error"]))
    settings = listen(tmp_path, SERVER)
    cert, key = (Path(settings[name]) for name in ("listen_tls_cert", "listen_tls_key"))
    async with open_shop(credentials=credentials(), **settings) as shop:
        new = AUTHORITY.server("new.example")
        for file, content, error in [
            (cert, new.cert[:100], f"listen_tls_cert: {cert} is not a PEM file with a certificate"),
            (cert, new.cert, f"listen_tls_key: {key} is not the key of the certificate in {cert}"),
            (key, b"", f"listen_tls_key: {key} is not a PEM file with an unencrypted private key"),
        ]:
            file.write_bytes(content)
            await until(lambda error=error: error in said)
            assert await shown(shop.address) == SERVER.cert
        key.write_bytes(new.key)
        await until(lambda: is_shown(shop.address, new))
        assert len(said) == 3, "one line for each"


async def test_a_new_authority_of_clients_counts_from_the_next_handshake_on(open_shop: Open, tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    settings = swap(tmp_path, SERVER, old.cert)
    of_old, of_new = credentials(old.client("cart.shop")), credentials(new.client("cart.shop"))
    async with open_shop(credentials=of_old, **settings) as shop:
        id = (await shop.create()).product_id
        assert not await gets_in(shop.address, of_new)
        swap(tmp_path, SERVER, new.cert)
        await until(lambda: gets_in(shop.address, of_new))
        assert not await gets_in(shop.address, of_old)
        assert (await shop.get(id)).product.product_id == id, "on the connection from before"


async def gets_in(address: str, channel_credentials: grpc.ChannelCredentials) -> bool:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, channel_credentials, options) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), 2.0)
        except TimeoutError:
            return False
    return True
