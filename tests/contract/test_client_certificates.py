"""Certificates of clients that expire or are revoked while a connection lasts, or a TLS session: calls and streams end."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.v1 import cart_service_pb2, cart_service_pb2_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_access import first_of, get, is_hit
from tests.contract.test_listeners import start_fails
from tests.contract.test_roles import apart
from tests.contract.test_tls import AUTHORITY, SERVER, credentials, tls
from tests.contract.who import METHODS, ask, hosted
from tests.support import inside
from tests.support.authority import Authority, Pair, listen, not_after
from tests.support.clocks import ManualClock
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Refusal, Shop, refusal, refused
from tests.support.until import DEADLINE, until

GET = "/cache_sidecar.v1.ProductService/GetProduct"
OK, UNAUTHENTICATED = 0, 16
CLIENT = AUTHORITY.client("cart.shop")
OTHER = AUTHORITY.client("other.shop")
BETWEEN = Authority("between", above=AUTHORITY)
# How a certificate can have a name; an IP address only has one way.
KINDS: dict[str, Callable[[str], x509.GeneralName]] = {
    "URI": x509.UniformResourceIdentifier,
    "DNS": x509.DNSName,
    "email": x509.RFC822Name,
}
KIND_OF = {"cart.shop": "DNS", "cart@shop.example": "email", "10.0.0.1": "IP", "spiffe://shop/cart": "URI"}


class Resuming(ssl.SSLContext):
    """A context of a client that resumes a session, as asyncio's cannot."""

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(*given, **named, session=self.session)


def resuming(folder: Path, pair: Pair, version: ssl.TLSVersion) -> Resuming:
    made = Resuming(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=AUTHORITY.cert.decode())
    made.set_alpn_protocols(["h2"])
    made.minimum_version = made.maximum_version = version
    file = folder / "client.pem"
    file.write_bytes(pair.cert + pair.key)
    made.load_cert_chain(file)
    return made


def before_expiry(seconds: float) -> ManualClock:
    """Returns a clock of a sidecar for which the client's certificate is valid for so many seconds; for TLS it is until tomorrow."""
    return ManualClock(not_after(CLIENT) - seconds)


async def answered(raw: RawConnection, id: str) -> int | None:
    return (await raw.call(GET, message(pb.GetProductRequest(product_id=id).SerializeToString()))).status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_resumed_only_where_clients_need_no_certificate(
    engine: str, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    for client_ca, is_resumed in [(b"", True), (AUTHORITY.cert, False)]:
        context = resuming(tmp_path, CLIENT, version)
        async with hosted(engine, tls(tmp_path, client_ca=client_ca)) as address:
            for expected in (False, is_resumed, is_resumed):
                async with RawConnection.open(address, tls=context) as raw:
                    assert (await raw.call("/test.Who/Call", message(b""))).status == OK
                    assert raw.tls.session_reused == expected
                    context.session = raw.tls.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_of_a_valid_certificate_is_of_no_use_after_its_expiry(
    open_shop: Open, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    clock, context = before_expiry(5), resuming(tmp_path, CLIENT, version)
    settings = listen(tmp_path, SERVER, AUTHORITY.cert)
    async with open_shop(clock=clock, credentials=credentials(OTHER), **settings) as shop:
        id = (await shop.create()).product_id
        async with RawConnection.open(shop.address, tls=context) as raw:
            assert await answered(raw, id) == OK
            context.session = raw.tls.session
        clock.advance(5)
        for _ in range(3):
            async with RawConnection.open(shop.address, tls=context) as raw:
                assert await answered(raw, id) == UNAUTHENTICATED
                assert not raw.tls.session_reused
                context.session = raw.tls.session


async def calls(shop: Shop, id: str) -> list[Refusal]:
    """Makes calls of every kind, which all have to be refused."""
    carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
    return [
        await refused(get(shop, id)),
        await refused(get(shop, id, compression=grpc.Compression.Gzip)),
        await refused(carts.GetCart(cart_service_pb2.GetCartRequest(user_id="u"))),
        await first_of(shop.products.WatchProducts(pb.WatchProductsRequest())),
    ]


def is_invalid(refused_as: Refusal) -> bool:
    return (refused_as.code, refused_as.reason) == (StatusCode.UNAUTHENTICATED, "INVALID_CERTIFICATE")


@asynccontextmanager
async def watching(shop: Shop) -> AsyncIterator[Any]:
    """Returns a watch that has begun."""
    watch = shop.products.WatchProducts(pb.WatchProductsRequest())
    await watch.read()
    try:
        yield watch
    finally:
        watch.cancel()


async def how_it_ends(watch: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(watch.read(), DEADLINE)
    return refusal(caught.value)


@pytest.mark.parametrize("names", ["", "cart.shop, other.shop"])
async def test_calls_and_watches_end_when_the_certificate_expires(open_shop: Open, tmp_path: Path, names: str) -> None:
    clock = before_expiry(5)
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"listen_socket": f"{tmp_path}/s", "allowed_clients": names}
    # A connection that gets GOAWAY stays open for as long.
    settings |= {"max_connection_age_grace": 600.0}
    async with (
        open_shop(clock=clock, credentials=credentials(CLIENT), **settings) as shop,
        apart(f"unix:{tmp_path}/s") as local,
        watching(shop) as watch,
        watching(local) as local_watch,
    ):
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        await local_watch.read()
        await watch.read()
        clock.advance(4.9)
        assert await is_hit(shop, id)
        clock.advance(0.1)
        found = await calls(shop, id)
        assert all(map(is_invalid, found)), found
        expired = dt.datetime.fromtimestamp(not_after(CLIENT), dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        assert found[0].message == f"the client certificate expired at {expired}: connect again with a valid one"
        assert is_invalid(await how_it_ends(watch))
        health: Any = health_pb2_grpc.HealthStub(shop.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        assert await is_hit(local, id), "there is no certificate on the socket"
        await local.create()
        assert await local_watch.read()


@pytest.fixture
def crl(tmp_path: Path) -> Path:
    file = tmp_path / "crl.pem"
    file.write_bytes(AUTHORITY.crl(OTHER.cert))
    return file


def with_crl(folder: Path, crl: Path, client_ca: bytes = AUTHORITY.cert) -> dict[str, str]:
    return listen(folder, SERVER, client_ca) | {"listen_tls_client_crl": str(crl)}


async def test_what_is_revoked_at_the_start_may_call_nothing(open_shop: Open, tmp_path: Path, crl: Path) -> None:
    async with open_shop(credentials=credentials(CLIENT), **with_crl(tmp_path, crl)) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        async with apart(shop.address, credentials(OTHER)) as other:
            found = await calls(other, id)
            assert all(map(is_invalid, found)), found
            health: Any = health_pb2_grpc.HealthStub(other.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_certificate_is_revoked_without_a_restart(open_shop: Open, tmp_path: Path, crl: Path, engine: str) -> None:
    async with (
        open_shop(credentials=credentials(CLIENT), max_connection_age_grace=600, **with_crl(tmp_path, crl)) as shop,
        apart(shop.address, credentials(AUTHORITY.client("third.shop"))) as third,
        watching(shop) as watch,
        watching(third) as others_watch,
    ):
        id = (await shop.create()).product_id
        for each in (shop, third):
            await until(lambda each=each: is_hit(each, id))
        await watch.read()
        crl.write_bytes(AUTHORITY.crl(CLIENT.cert) + b"\n" + AUTHORITY.crl(OTHER.cert))
        assert is_invalid(await how_it_ends(watch))
        found = await calls(shop, id)
        assert all(map(is_invalid, found)), found
        serial = x509.load_pem_x509_certificate(CLIENT.cert).serial_number
        assert found[0].message == f"the client certificate {serial:x} was revoked: connect again with a valid one"
        if engine == "native":
            before = inside.engine_of(shop.app.server).counters()["handed"]
            assert await is_hit(third, id)
            assert inside.engine_of(shop.app.server).counters()["handed"] == before, "others still get hits without Python"
        assert not others_watch.done()
        crl.write_bytes(AUTHORITY.crl(OTHER.cert))
        await until(lambda: is_admitted(shop, id))


async def is_admitted(shop: Shop, id: str) -> bool:
    try:
        await get(shop, id)
    except grpc.aio.AioRpcError as error:
        assert error.code() == StatusCode.UNAUTHENTICATED
        return False
    return True


async def test_a_revoked_issuer_counts_too(open_shop: Open, tmp_path: Path, crl: Path, engine: str) -> None:
    pair = BETWEEN.client("cart.shop")
    chained = credentials(Pair(pair.cert + BETWEEN.cert, pair.key))
    served = tls(tmp_path, client_ca=AUTHORITY.cert)
    async with hosted(engine, served) as address, grpc.aio.secure_channel(address, chained) as channel:
        for method in METHODS:
            properties = (await ask(channel, method))["properties"]
            assert properties["x509_pem_cert"] == [pair.cert.decode()]
            assert properties["x509_pem_cert_chain"] == [BETWEEN.cert.decode()]
    async with (
        open_shop(credentials=credentials(CLIENT), **with_crl(tmp_path, crl)) as shop,
        apart(shop.address, chained) as other,
    ):
        id = (await shop.create()).product_id
        await until(lambda: is_hit(other, id))
        crl.write_bytes(AUTHORITY.crl(BETWEEN.cert))
        await until(lambda: is_locked_out(other, id))
        assert "CN=between" in (await refused(get(other, id))).message
        assert await is_hit(shop, id)


async def is_locked_out(shop: Shop, id: str) -> bool:
    return not await is_admitted(shop, id)


async def test_the_list_of_an_issuer_in_the_file_of_cas_revokes_what_it_issued(
    open_shop: Open, tmp_path: Path, crl: Path
) -> None:
    crl.write_bytes(AUTHORITY.crl() + BETWEEN.crl(BETWEEN.client("x").cert))
    pair = BETWEEN.client("cart.shop")
    settings = with_crl(tmp_path, crl, AUTHORITY.cert + BETWEEN.cert)
    async with open_shop(credentials=credentials(pair), **settings) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        crl.write_bytes(BETWEEN.crl(pair.cert))
        await until(lambda: is_locked_out(shop, id))


async def degradations(shop: Shop) -> dict[str, str]:
    return {one.reason: one.effect for one in shop.app.failing_dependencies() if one.what == "revocations"}


async def test_a_list_that_cannot_be_used_changes_nothing_and_is_reported(open_shop: Open, tmp_path: Path, crl: Path) -> None:
    async with open_shop(credentials=credentials(CLIENT), **with_crl(tmp_path, crl)) as shop:
        id = (await shop.create()).product_id
        assert not await degradations(shop)
        crl.write_bytes(Authority("a stranger").crl(CLIENT.cert))
        await until(lambda: degradations(shop))
        ((reason, effect),) = (await degradations(shop)).items()
        assert reason.startswith(f"listen_tls_client_crl: {crl} has a CRL of CN=a stranger")
        assert effect == "the previous revocation lists stay in effect"
        assert await is_admitted(shop, id)
        async with apart(shop.address, credentials(OTHER)) as other:
            assert await is_locked_out(other, id)
        crl.write_bytes(AUTHORITY.crl(CLIENT.cert))
        await until(lambda: is_locked_out(shop, id))
        assert not await degradations(shop)


async def test_a_list_out_of_date_still_counts_and_is_reported(open_shop: Open, tmp_path: Path, crl: Path) -> None:
    clock = ManualClock(time.time())
    crl.write_bytes(AUTHORITY.crl(OTHER.cert, next_update=dt.datetime.fromtimestamp(time.time() + 600, dt.UTC)))
    async with open_shop(clock=clock, credentials=credentials(CLIENT), **with_crl(tmp_path, crl)) as shop:
        id = (await shop.create()).product_id
        assert not await degradations(shop)
        clock.advance(601)
        await until(lambda: degradations(shop))
        ((reason, effect),) = (await degradations(shop)).items()
        assert "CN=an authority" in reason
        assert "was to be updated by" in reason
        assert effect == "certificates that were revoked since are accepted until they expire"
        assert await is_admitted(shop, id), "nobody is locked out"
        async with apart(shop.address, credentials(OTHER)) as other:
            assert await is_locked_out(other, id)
        crl.write_bytes(AUTHORITY.crl(OTHER.cert))
        await until(lambda: is_up_to_date(shop))


async def is_up_to_date(shop: Shop) -> bool:
    return not await degradations(shop)


async def test_at_the_start_an_invalid_list_is_one_line(tmp_path: Path, crl: Path, engine: str) -> None:
    crl.write_bytes(b"nothing")
    with pytest.raises(SettingsError) as caught:
        await start_fails(engine=engine, **with_crl(tmp_path, crl))
    assert str(caught.value) == f"listen_tls_client_crl: {crl} has no CRL in PEM"


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    file = tmp_path / "clients"
    file.write_text("# who may call\ncart.shop app\n\nother.shop\n")
    return file


async def test_names_are_exchanged_without_a_restart(open_shop: Open, tmp_path: Path, clients: Path, engine: str) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"allowed_clients_file": str(clients)}
    third = credentials(AUTHORITY.client("third.shop"))
    async with (
        open_shop(credentials=credentials(CLIENT), **settings) as shop,
        apart(shop.address, credentials(OTHER)) as other,
        apart(shop.address, third) as added,
        watching(shop) as watch,
        watching(other) as others_watch,
    ):
        id = (await shop.create()).product_id
        await watch.read()
        assert (await refused(get(added, id))).reason == "CLIENT_NOT_ALLOWED"
        for each in (shop, other):
            await until(lambda each=each: is_hit(each, id))
        clients.write_text("other.shop\nthird.shop app,read\n")
        assert (await how_it_ends(watch)).reason == "CLIENT_NOT_ALLOWED"
        assert (await refused(get(shop, id))).reason == "CLIENT_NOT_ALLOWED"
        assert not others_watch.done()
        before = inside.engine_of(shop.app.server).counters()["handed"] if engine == "native" else 0
        for each in (other, added):
            assert await is_hit(each, id), "on the connection from before"
        if engine == "native":
            assert inside.engine_of(shop.app.server).counters()["handed"] == before, "they were answered without Python"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_text("# none\n"), "has no name, so every call would be refused"),
        (lambda file: file.write_text("cart.shop app\ncart.shop read\n"), "line 2 of {}: 'cart.shop' is listed twice"),
        (
            lambda file: file.write_text("cart.shop\ncart.shop, other.shop\n"),
            "line 2 of {}: 'cart.shop, other.shop': the roles",
        ),
        (lambda file: file.write_bytes(b"cart.shop\n\xff\n"), "line 2 of {}: "),
        (Path.unlink, "cannot read {}"),
    ],
)
async def test_a_file_of_names_that_cannot_be_used_changes_nothing(
    open_shop: Open,
    tmp_path: Path,
    clients: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    said: str,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("cache_sidecar.server.auth.telemetry.log.error", lambda _, **more: lines.append(more["error"]))
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"allowed_clients_file": str(clients)}
    async with open_shop(credentials=credentials(CLIENT), **settings) as shop:
        id = (await shop.create()).product_id
        change(clients)
        await until(lambda: lines)
        assert said.format(clients) in lines[0]
        assert (await get(shop, id)).product.product_id == id
        clients.write_text("other.shop\n")
        await until(lambda: is_refused(get(shop, id)))
        assert len(lines) == 1


async def is_refused(call: Awaitable[Any]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_a_name_of_one_kind_does_not_pass_for_one_of_another(open_shop: Open, tmp_path: Path) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"allowed_clients": ", ".join(KIND_OF)}
    async with open_shop(credentials=credentials(CLIENT), **settings) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        for name, kind_of in KIND_OF.items():
            for kind, made in KINDS.items():
                async with apart(shop.address, credentials(AUTHORITY.signed("a client", [made(name)]))) as other:
                    if kind == kind_of:
                        assert await is_hit(other, id), (kind, name)
                    else:
                        assert (await refused(get(other, id))).reason == "CLIENT_NOT_ALLOWED", (kind, name)
        address = AUTHORITY.signed("a client", [x509.IPAddress(ipaddress.ip_address("10.0.0.1"))])
        async with apart(shop.address, credentials(address)) as other:
            assert await is_hit(other, id)
