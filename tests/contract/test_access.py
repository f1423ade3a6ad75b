"""Who may call: tokens, which are exchanged without a restart, and names in clients' certificates. Hits are no exception."""

import grp
import os
import stat
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.v1 import cart_service_pb2, cart_service_pb2_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_listeners import start_fails
from tests.contract.test_tls import AUTHORITY, SERVER, credentials
from tests.support import inside
from tests.support.authority import listen
from tests.support.launch import Sidecar
from tests.support.raw import RawConnection, message
from tests.support.shop import L1, Open, Refusal, Shop, product, refusal, refused
from tests.support.tokens import secret_file, token
from tests.support.until import until

FIRST, SECOND = token("first"), token("second")
GET = "/cache_sidecar.v1.ProductService/GetProduct"


def bearing(token: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer {token}")]}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "tokens", f"# of this month\n{FIRST}\n\n")


def get(shop: Shop, id: str, **more: Any) -> Any:
    return shop.products.GetProduct(pb.GetProductRequest(product_id=id), **more)


async def create(shop: Shop, **more: Any) -> str:
    request = pb.CreateProductRequest(product=product(f"p-{uuid4().hex[:8]}"))
    return str((await shop.products.CreateProduct(request, **more)).product.product_id)


async def first_of(stream: Any) -> Refusal:
    try:
        await anext(aiter(stream))
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError("the stream began")


async def is_hit(shop: Shop, id: str, **more: Any) -> bool:
    return (await get(shop, id, **more)).cache.source == L1


def is_invalid_token(refused_as: Refusal) -> bool:
    return (refused_as.code, refused_as.reason, refused_as.domain) == (
        StatusCode.UNAUTHENTICATED,
        "INVALID_TOKEN",
        "cache-sidecar.io",
    )


@pytest.mark.parametrize("wrong", [{}, bearing("no-token"), bearing(FIRST[:-1]), {"metadata": [("authorization", FIRST)]}])
async def test_every_call_needs_a_token(open_shop: Open, tokens: Path, wrong: dict[str, Any]) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        await until(lambda: is_hit(shop, id, **bearing(FIRST)))
        carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(shop.channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        for refused_as in [
            await refused(get(shop, id, **wrong)),
            await refused(get(shop, id, compression=grpc.Compression.Gzip, **wrong)),
            await refused(carts.GetCart(cart_service_pb2.GetCartRequest(user_id="u"), **wrong)),
            await first_of(shop.products.WatchProducts(pb.WatchProductsRequest(), **wrong)),
            await first_of(reflection.ServerReflectionInfo(asked, **wrong)),
        ]:
            assert is_invalid_token(refused_as), refused_as
        assert await is_hit(shop, id, **bearing(FIRST))


async def test_the_message_says_what_to_do(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        assert (await refused(get(shop, "p"))).message == (
            "a token is required: send the metadata `authorization: Bearer TOKEN`"
        )
        said = await refused(get(shop, "p", **bearing("no-token")))
        assert said.message == "invalid token"


async def test_health_needs_no_token(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        health: Any = health_pb2_grpc.HealthStub(shop.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert (await anext(aiter(watched))).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


async def test_the_socket_needs_a_token_too(open_shop: Open, tokens: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    async with (
        open_shop(access_tokens_file=str(tokens), listen_socket=f"{tmp_path}/s") as shop,
        grpc.aio.insecure_channel(address) as channel,
    ):
        id = await create(shop, **bearing(FIRST))
        same = Shop(Sidecar(address, channel))
        assert is_invalid_token(await refused(get(same, id)))
        assert (await get(same, id, **bearing(FIRST))).product.product_id == id


async def test_a_hit_with_a_token_is_still_a_hit(open_shop: Open, tokens: Path, engine: str) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        await until(lambda: is_hit(shop, id, **bearing(FIRST)))
        if engine == "aio":
            return
        counters = inside.engine_of(shop.app.server).counters
        before = counters()
        for scheme in ("Bearer", "bearer"):
            assert await is_hit(shop, id, metadata=[("authorization", f"{scheme} {FIRST}")])
        assert counters()["handed"] == before["handed"], "they were answered without Python"
        assert is_invalid_token(await refused(get(shop, id, **bearing(SECOND))))
        assert counters()["handed"] == before["handed"] + 1, "only Python refuses"


async def test_tokens_are_exchanged_without_a_restart(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        await until(lambda: is_hit(shop, id, **bearing(FIRST)))
        tokens.write_text(f"{FIRST}\n{SECOND}\n")
        await until(lambda: may_call(shop, id, SECOND))
        assert await may_call(shop, id, FIRST), "both are valid"
        tokens.write_text(f"{SECOND}\n")
        await until(lambda: is_locked_out(shop, id, FIRST))
        assert await is_hit(shop, id, **bearing(SECOND))


async def may_call(shop: Shop, id: str, token: str) -> bool:
    try:
        await get(shop, id, **bearing(token))
    except grpc.aio.AioRpcError as error:
        assert error.code() == StatusCode.UNAUTHENTICATED
        return False
    return True


async def is_locked_out(shop: Shop, id: str, token: str) -> bool:
    return not await may_call(shop, id, token)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no token, so every call would be refused"),
        ("short", "has a token of at most 0 random bits"),
        (f"{FIRST}\nnot fine\n", "line 2 of"),
        (None, "cannot read"),
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing(
    open_shop: Open, tokens: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("cache_sidecar.server.auth.telemetry.log.error", lambda _, **more: lines.append(more["error"]))
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        if content is None:
            tokens.unlink()
        else:
            tokens.write_text(content)
        await until(lambda: lines)
        assert said in lines[0]
        assert await may_call(shop, id, FIRST)
        secret_file(tokens, SECOND)
        await until(lambda: may_call(shop, id, SECOND))
        assert len(lines) == 1


async def test_a_file_that_others_can_read_changes_nothing_until_they_cannot(
    open_shop: Open, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("cache_sidecar.server.auth.telemetry.log.error", lambda _, **more: lines.append(more["error"]))
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        tokens.chmod(0o644)
        tokens.write_text(SECOND)
        await until(lambda: lines)
        assert lines == [
            f"access_tokens_file: cannot read {tokens}: its mode 0644 gives all users access; chmod 600 removes it"
        ]
        assert await may_call(shop, id, FIRST)
        tokens.chmod(0o600)
        await until(lambda: may_call(shop, id, SECOND))
        assert await is_locked_out(shop, id, FIRST)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# none\n", "has no token, so every call would be refused"),
        ("a token\n", "line 1 of {} must be TOKEN, or NAME ROLE[,ROLE] TOKEN"),
    ],
)
async def test_at_the_start_it_is_one_line(tokens: Path, content: str, said: str) -> None:
    tokens.write_text(content)
    with pytest.raises(SettingsError) as caught:
        await start_fails(access_tokens_file=str(tokens))
    assert str(caught.value).startswith("access_tokens_file: ")
    assert said.format(tokens) in str(caught.value)


async def test_only_the_clients_allowed_may_call(open_shop: Open, tmp_path: Path, engine: str) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"listen_socket": f"{tmp_path}/s"}
    allowed = credentials(AUTHORITY.client("spiffe://shop/cart"))
    async with open_shop(credentials=allowed, allowed_clients="cart.shop, spiffe://shop/cart", **settings) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        if engine == "native":
            counters = inside.engine_of(shop.app.server).counters
            before = counters()
            assert await is_hit(shop, id)
            assert counters()["handed"] == before["handed"], "it was answered without Python"
        async with grpc.aio.secure_channel(shop.address, credentials(AUTHORITY.client("other.shop", "cart.shop"))) as channel:
            assert await is_hit(Shop(Sidecar(shop.address, channel)), id)
        await others_are_refused(shop, id)
        # Its mode and group say who may use the socket.
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            assert await is_hit(Shop(Sidecar("", channel)), id)


async def others_are_refused(shop: Shop, id: str) -> None:
    for pair, names in [
        (AUTHORITY.client("spiffe://shop/checkout"), "spiffe://shop/checkout"),
        (AUTHORITY.client("shop", "xcart.shop"), "shop, xcart.shop"),
        # A common name is not looked at.
        (AUTHORITY.client(common_name="cart.shop"), ""),
    ]:
        async with grpc.aio.secure_channel(shop.address, credentials(pair)) as channel:
            other = Shop(Sidecar(shop.address, channel))
            for refused_as in [
                await refused(get(other, id)),
                await refused(get(other, id, compression=grpc.Compression.Gzip)),
                await first_of(other.products.WatchProducts(pb.WatchProductsRequest())),
            ]:
                assert (refused_as.code, refused_as.reason) == (StatusCode.PERMISSION_DENIED, "CLIENT_NOT_ALLOWED")
                assert refused_as.metadata == {"client": names}
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_wrong_token_is_no_hit_in_raw_bytes_either(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(FIRST))
        await until(lambda: is_hit(shop, id, **bearing(FIRST)))
        request = message(pb.GetProductRequest(product_id=id).SerializeToString())
        async with RawConnection.open(shop.address) as raw:
            for value in (b"", b"Bearer", b"Bearer ", b"\xff\xfe", f"Bearer {FIRST},".encode(), f"Basic {FIRST}".encode()):
                assert (await raw.call(GET, request, metadata=[(b"authorization", value)])).status == 16, value
            assert (await raw.call(GET, request, metadata=[(b"authorization", f"BEARER {FIRST}".encode())])).status == 0


async def test_the_socket_has_the_group_that_was_asked_for(open_shop: Open, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    group = next((gid for gid in os.getgroups() if gid != os.getgid()), None)
    if group is None and os.geteuid() == 0:
        group = 12_345
    if group is None:
        pytest.skip("this user is in one group only")
    async with open_shop(listen_socket=path, listen_socket_group=str(group), listen_socket_mode="0620"):
        found = os.stat(path)
        assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (group, 0o620)
    async with open_shop(listen_socket=path, listen_socket_group=grp.getgrgid(os.getgid()).gr_name):
        assert os.stat(path).st_gid == os.getgid()


async def test_nobody_can_connect_before_the_socket_is_as_it_is_to_be(
    open_shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, modes = f"{tmp_path}/s", []
    chmod = os.chmod

    def noted(of: Any, mode: int) -> None:
        if of == path:
            modes.append((stat.S_IMODE(os.stat(path).st_mode), mode))
        chmod(of, mode)

    monkeypatch.setattr(os, "chmod", noted)
    umask = os.umask(0o022)
    os.umask(umask)
    async with open_shop(listen_socket=path, listen_socket_mode="0666"):
        assert modes == [(0, 0o666)]
    assert os.umask(umask) == umask
