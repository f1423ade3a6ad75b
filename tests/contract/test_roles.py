"""Roles of tokens and certificate names: which methods they may call, and what the audit log says of it."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import cart_service_pb2, cart_service_pb2_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_access import bearing, create, first_of, get, is_hit
from tests.contract.test_listeners import start_fails
from tests.contract.test_tls import AUTHORITY, SERVER, credentials
from tests.support import inside
from tests.support.authority import listen
from tests.support.launch import Sidecar
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Refusal, Shop, product, refusal, refused
from tests.support.tokens import secret_file, token
from tests.support.until import DEADLINE, until

PLAIN, APP, READ, ADMIN, BOTH = map(token, ("plain", "app", "read", "admin", "both"))
FILE = f"{PLAIN}\ncart app {APP}\nboard read {READ}\nops admin {ADMIN}\nworker app,read {BOTH}\n"
STRONG = token("s3cret")
RESET = admin.UpdatePolicyRequest(policy=admin.DatasetPolicy(dataset="product"), reset_mask={"paths": ["jitter"]})
# Each kind of call, by the roles that may make it.
DATA = {"GetCart", "GetProduct", "GetProduct, compressed", "WatchProducts"}
READS = {"GetStats", "InspectKey", "GetPolicy", "reflection"}
CHANGES = {"Invalidate", "UpdatePolicy", "UpdateLogLevel"}

Lines = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "tokens", FILE)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The lines of the audit log."""
    found: Lines = []
    monkeypatch.setattr(
        "cache_sidecar.server.audit.telemetry.audit.info", lambda event, **more: found.append((event, more)), raising=False
    )
    return found


async def begun(stream: Any) -> None:
    """Waits until a stream has begun; raises the error it ended with instead."""
    await anext(aiter(stream))
    stream.cancel()


async def refused_calls(shop: Shop, **more: Any) -> dict[str, Refusal]:
    """Makes a call of each kind; returns those that were refused, and how."""
    carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    calls: dict[str, Awaitable[Any]] = {
        "GetCart": carts.GetCart(cart_service_pb2.GetCartRequest(user_id="u"), **more),
        "GetProduct": get(shop, "p", **more),
        "GetProduct, compressed": get(shop, "p", compression=grpc.Compression.Gzip, **more),
        "WatchProducts": begun(shop.products.WatchProducts(pb.WatchProductsRequest(), **more)),
        "GetStats": shop.admin.GetStats(admin.GetStatsRequest(), **more),
        "InspectKey": shop.admin.InspectKey(admin.InspectKeyRequest(dataset="product", id="p"), **more),
        "GetPolicy": shop.admin.GetPolicy(admin.GetPolicyRequest(), **more),
        "reflection": begun(reflection_pb2_grpc.ServerReflectionStub(shop.channel).ServerReflectionInfo(asked, **more)),
        "Invalidate": shop.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["p"]), **more),
        "UpdatePolicy": shop.admin.UpdatePolicy(RESET, **more),
        "UpdateLogLevel": shop.admin.UpdateLogLevel(admin.UpdateLogLevelRequest(), **more),
    }
    found = {}
    for name, call in calls.items():
        try:
            await asyncio.wait_for(call, DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() != StatusCode.NOT_FOUND:
                found[name] = refusal(error)
    return found


def is_role_missing(refused_as: Refusal) -> bool:
    return (refused_as.code, refused_as.reason) == (StatusCode.PERMISSION_DENIED, "ROLE_MISSING")


@pytest.mark.parametrize(
    ("token", "not_for_it"),
    [(APP, READS | CHANGES), (READ, DATA | CHANGES), (ADMIN, DATA), (BOTH, CHANGES), (PLAIN, CHANGES)],
)
async def test_a_token_may_call_what_its_roles_are_for(open_shop: Open, tokens: Path, token: str, not_for_it: set[str]) -> None:
    async with open_shop(access_tokens_file=str(tokens), local_admin=False) as shop:
        found = await refused_calls(shop, **bearing(token))
        assert found.keys() == not_for_it
        assert all(map(is_role_missing, found.values())), found
        unknown = await refused_calls(shop, **bearing("nothing"))
        assert unknown.keys() == DATA | READS | CHANGES
        assert {one.code for one in unknown.values()} == {StatusCode.UNAUTHENTICATED}


async def test_a_setting_lets_local_callers_without_roles_change_things(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens), local_admin=True) as shop:
        assert not await refused_calls(shop, **bearing(PLAIN))
        assert (await refused_calls(shop, **bearing(APP))).keys() == READS | CHANGES, "roles that are given are all"


async def test_a_token_without_the_role_gets_no_hits(open_shop: Open, tokens: Path, engine: str) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        id = await create(shop, **bearing(APP))
        await until(lambda: is_hit(shop, id, **bearing(APP)))
        if engine == "native":
            counters = inside.engine_of(shop.app.server).counters
            before = counters()["handed"]
            assert await is_hit(shop, id, **bearing(PLAIN))
            assert await is_hit(shop, id, **bearing(BOTH))
            assert counters()["handed"] == before, "they were answered without Python"
        for token in (READ, ADMIN):
            assert is_role_missing(await refused(get(shop, id, **bearing(token))))
        tokens.write_text(FILE.replace("cart app", "cart read"))
        await until(lambda: is_refused(get(shop, id, **bearing(APP))))
        assert is_role_missing(await refused(get(shop, id, **bearing(APP))))


async def is_refused(call: Awaitable[Any]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_without_roles_only_the_machine_itself_may_read_and_nobody_change(open_shop: Open, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    async with open_shop(listen_address="0.0.0.0:0", listen_insecurely=True, listen_socket=path, local_admin=False) as shop:
        port = shop.address.rpartition(":")[2]
        for address in (f"127.0.0.1:{port}", f"unix:{path}"):
            async with apart(address) as other:
                assert (await refused_calls(other)).keys() == CHANGES
        async with apart(f"{own_address()}:{port}") as other:
            found = await refused_calls(other)
            assert found.keys() == {"GetStats", "InspectKey", "GetPolicy"} | CHANGES
            assert all(map(is_role_missing, found.values()))


async def test_the_setting_is_for_the_machine_itself(open_shop: Open, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    async with open_shop(listen_address="0.0.0.0:0", listen_insecurely=True, listen_socket=path, local_admin=True) as shop:
        port = shop.address.rpartition(":")[2]
        for address in (f"127.0.0.1:{port}", f"unix:{path}"):
            async with apart(address) as other:
                assert not await refused_calls(other)
        async with apart(f"{own_address()}:{port}") as other:
            assert (await refused_calls(other)).keys() == {"GetStats", "InspectKey", "GetPolicy"} | CHANGES


def own_address() -> str:
    """Returns an address of this machine that is not on the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return str(probe.getsockname()[0])


@asynccontextmanager
async def apart(address: str, pair: grpc.ChannelCredentials | None = None) -> AsyncIterator[Shop]:
    """Returns a shop on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.secure_channel(address, pair, options) if pair else grpc.aio.insecure_channel(address, options)
    async with channel:
        yield Shop(Sidecar(address, channel))


async def test_messages_name_the_role_and_what_to_configure(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens), local_admin=False) as shop:
        request = admin.InvalidateRequest(dataset="cart", all=True)
        found = await refused(shop.admin.Invalidate(request, **bearing(APP)))
        assert found.message == (
            "AdminService/Invalidate needs the role admin, but the caller has only app: "
            "add admin to its roles in access_tokens_file or allowed_clients"
        )
        assert found.metadata == {"role": "admin", "has": "app"}
        found = await refused(shop.admin.Invalidate(request, **bearing(PLAIN)))
        assert found.message == (
            "AdminService/Invalidate needs the role admin, but the caller has no role: give it one: `NAME admin TOKEN` in "
            "access_tokens_file, or `NAME admin` in allowed_clients; or set local_admin"
        )


async def test_certificate_names_have_roles(open_shop: Open, tmp_path: Path, engine: str) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"local_admin": False}
    names = "spiffe://shop/cart app, spiffe://shop/ops admin, spiffe://shop/board read, old.shop, both.shop app+read"
    cart = credentials(AUTHORITY.client("spiffe://shop/cart"))
    async with open_shop(credentials=cart, allowed_clients=names, **settings) as shop:
        assert (await refused_calls(shop)).keys() == READS | CHANGES
        for given, not_for_it in [
            (("spiffe://shop/ops",), DATA),
            (("spiffe://shop/board",), DATA | CHANGES),
            (("old.shop",), CHANGES),
            (("both.shop",), CHANGES),
            (("spiffe://shop/ops", "old.shop"), set[str]()),
        ]:
            async with apart(shop.address, credentials(AUTHORITY.client(*given))) as other:
                found = await refused_calls(other)
                assert found.keys() == not_for_it, given
                assert all(map(is_role_missing, found.values()))
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        if engine == "native":
            before = inside.engine_of(shop.app.server).counters()["handed"]
            assert await is_hit(shop, id)
            assert inside.engine_of(shop.app.server).counters()["handed"] == before
        async with apart(shop.address, credentials(AUTHORITY.client("spiffe://shop/board"))) as other:
            assert is_role_missing(await refused(get(other, id)))


async def test_with_a_token_and_a_name_both_must_grant_the_role(open_shop: Open, tokens: Path, tmp_path: Path) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {"access_tokens_file": str(tokens), "local_admin": False}
    cart = credentials(AUTHORITY.client("cart.shop"))
    async with open_shop(credentials=cart, allowed_clients="cart.shop app", **settings) as shop:
        found = await refused_calls(shop, **bearing(ADMIN))
        assert found.keys() == DATA | READS | CHANGES
        assert found["GetCart"].message == (
            "CartService/GetCart needs the role app, but the caller has no role: its token and its certificate have no role in "
            "common; add app to both, in access_tokens_file and allowed_clients"
        )
        assert (await refused_calls(shop, **bearing(BOTH))).keys() == READS | CHANGES
        assert (await refused_calls(shop, **bearing(PLAIN))).keys() == READS | CHANGES


WITHDRAWN: dict[str, Callable[[str], str]] = {
    "the token": lambda file: file.replace(f"cart app {APP}\n", ""),
    "the role": lambda file: file.replace("cart app", "cart read"),
}


@pytest.mark.parametrize("what", WITHDRAWN)
async def test_watches_end_when_what_opened_them_is_withdrawn(open_shop: Open, tokens: Path, what: str) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        watch = shop.products.WatchProducts(pb.WatchProductsRequest(), **bearing(APP))
        other = shop.products.WatchProducts(pb.WatchProductsRequest(), **bearing(BOTH))
        health: Any = health_pb2_grpc.HealthStub(shop.channel)
        probe = health.Watch(health_pb2.HealthCheckRequest())
        for stream in (watch, other, probe):
            await stream.read()
        tokens.write_text(WITHDRAWN[what](FILE))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(watch.read(), DEADLINE)
        assert refusal(caught.value).reason == ("INVALID_TOKEN" if what == "the token" else "ROLE_MISSING")
        await create(shop, **bearing(BOTH))
        assert await asyncio.wait_for(other.read(), DEADLINE)
        assert not probe.done()
        assert len(inside.streams_of(inside.stack_of(shop.app.server))) == 2
        other.cancel()
        probe.cancel()


async def test_a_withdrawn_watch_that_nobody_reads_ends_too(
    open_shop: Open, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_sidecar.server.layers.READ_WITHIN", 0.1)
    async with (
        open_shop(access_tokens_file=str(tokens)) as shop,
        RawConnection.open(shop.address, stream_window=0) as raw,
    ):
        metadata = [(b"authorization", f"Bearer {APP}".encode())]
        stream = await raw.begin("/cache_sidecar.v1.ProductService/WatchProducts", metadata=metadata)
        await raw.send(stream, message(b""), end=True)
        streams = inside.streams_of(inside.stack_of(shop.app.server))
        await until(lambda: len(streams) == 1)
        for number in range(60):  # more than the buffers on the way hold
            await shop.products.CreateProduct(
                pb.CreateProductRequest(product=product(f"p{number}", description="x" * 10_000)), **bearing(BOTH)
            )
        tokens.write_text(WITHDRAWN["the token"](FILE))
        await until(lambda: not streams)


async def test_each_admin_call_is_an_audit_line(open_shop: Open, tokens: Path, lines: Lines) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        calls = shop.admin
        more = bearing(ADMIN)
        await calls.Invalidate(admin.InvalidateRequest(dataset="product", ids=["p1", "p2"]), **more)
        await calls.Invalidate(admin.InvalidateRequest(dataset="cart", ids=["customer-1"]), **more)
        await refused(calls.Invalidate(admin.InvalidateRequest(dataset="carts", ids=["customer-2"]), **more))
        update = admin.UpdatePolicyRequest(policy=admin.DatasetPolicy(dataset="product", rollout=50))
        update.policy.l2_ttl.seconds = 60
        await calls.UpdatePolicy(update, **more)
        await calls.GetStats(admin.GetStatsRequest(), **bearing(READ))
        service = "cache_sidecar.v1.AdminService"
        found = [(event, {key: value for key, value in line.items() if key != "peer"}) for event, line in lines]
        ops = {"caller": "token ops", "result": "OK"}
        assert found[:2] == [
            (
                "admin call",
                {"method": f"{service}/Invalidate", "dataset": "product", "all": False, "ids": 2, "first_ids": ["p1", "p2"]}
                | ops,
            ),
            ("admin call", {"method": f"{service}/Invalidate", "dataset": "cart", "all": False, "ids": 1} | ops),
        ]
        assert (found[2][1]["result"], "customer-2" in str(found[2])) == ("INVALID_ARGUMENT", False)
        values = {"rollout": 50, "l2_ttl": 60.0}
        assert found[3][1] == {"method": f"{service}/UpdatePolicy", "dataset": "product", "values": values} | ops
        assert found[4][1] == {"method": f"{service}/GetStats", "dataset": "", "caller": "token board", "result": "OK"}
        assert len(found) == 5
        for dataset, shown in (("product", {"id": "p1"}), ("cart", {}), ("carts", {})):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await calls.InspectKey(admin.InspectKeyRequest(dataset=dataset, id="p1"), **bearing(READ))
            line = lines[-1][1]
            assert {key: line[key] for key in line if key in {"id", "dataset"}} == {"dataset": dataset} | shown
            assert "p1" not in str(line) or shown
        await calls.UpdateLogLevel(admin.UpdateLogLevelRequest(level=admin.LOG_LEVEL_WARNING, duration={"seconds": 9}), **more)
        await calls.UpdateLogLevel(admin.UpdateLogLevelRequest(), **more)
        found = [{key: line.get(key) for key in ("log_level", "seconds")} for _, line in lines[-2:]]
        assert found == [{"log_level": "warning", "seconds": 9.0}, {"log_level": "unspecified", "seconds": None}]
        assert all(line["peer"].startswith("ipv4:127.0.0.1:") for _, line in lines)


async def test_an_audit_line_can_always_be_json(open_shop: Open, tokens: Path, lines: Lines) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        policy = admin.DatasetPolicy(dataset="product", rollout=float("nan"), jitter=float("-inf"))
        await refused(shop.admin.UpdatePolicy(admin.UpdatePolicyRequest(policy=policy), **bearing(ADMIN)))
        ((_, line),) = lines
        assert line["values"] == {"rollout": "nan", "jitter": "-inf"}


async def test_refusals_are_audited_once_a_second_for_each_kind(open_shop: Open, tokens: Path, lines: Lines) -> None:
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        for _ in range(50):
            await refused(get(shop, "p", **bearing("nothing")))
        await refused(shop.admin.Invalidate(admin.InvalidateRequest(dataset="cart", all=True), **bearing(APP)))
        of_tokens = [line for event, line in lines if line["result"] == "UNAUTHENTICATED"]
        assert 1 <= len(of_tokens) < 10
        (event, line), *_ = [one for one in lines if one[1]["result"] == "PERMISSION_DENIED"]
        assert (event, line["caller"]) == ("access refused", "token cart")
        assert line["method"] == "cache_sidecar.v1.AdminService/Invalidate"
        assert "nothing" not in str(lines), "no line shows a token"


@pytest.mark.parametrize("seconds", [0.05, 1000.0], ids=["while it runs", "when it stops"])
async def test_every_refusal_is_counted_and_every_caller_named(
    open_shop: Open, tokens: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("cache_sidecar.server.audit.REFUSAL_EVERY", seconds)
    tokens.write_text(f"{FILE}till app {token('till')}\n")

    def count(result: str) -> int:
        return sum(line["count"] for _, line in lines if line["result"] == result)

    async with open_shop(access_tokens_file=str(tokens)) as shop:
        for _ in range(50):
            await refused(get(shop, "p", **bearing("nothing")))
            await refused(shop.admin.GetStats(admin.GetStatsRequest(), **bearing(APP)))
        await refused(shop.admin.GetStats(admin.GetStatsRequest(), **bearing(token("till"))))
        if seconds < 1:
            await until(lambda: (count("UNAUTHENTICATED"), count("PERMISSION_DENIED")) == (50, 51))
    assert (count("UNAUTHENTICATED"), count("PERMISSION_DENIED")) == (50, 51)
    assert {line["caller"] for _, line in lines} == {"", "token cart", "token till"}
    assert {tuple(line["hosts"]) for _, line in lines if "hosts" in line} == {("ipv4:127.0.0.1",)}


async def test_an_audit_log_that_cannot_be_written_is_not_kept_secret(
    open_shop: Open, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_event: str, **_facts: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cache_sidecar.server.audit.telemetry.audit.info", fail, raising=False)
    async with open_shop(access_tokens_file=str(tokens)) as shop:
        found = await refused(shop.admin.Invalidate(admin.InvalidateRequest(dataset="cart", all=True), **bearing(ADMIN)))
        assert (found.code, found.reason) == (StatusCode.INTERNAL, "AUDIT_FAILED")
        assert found.message.endswith("the audit log cannot be written: No space left on device")
        assert (await refused(get(shop, "p", **bearing("nothing")))).reason == "INVALID_TOKEN"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "cart app,admn s3cret-token",
            "line 1 of {} must have roles as its second word, in NAME ROLE[,ROLE] TOKEN: the roles are",
        ),
        ("cart s3cret-token app", "line 1 of {} must have roles as its second word"),
        ("app s3cret-token", "line 1 of {} must be TOKEN, or NAME ROLE[,ROLE] TOKEN"),
        ("s3cret%token", "line 1 of {} must be a token: letters, digits and -._~+/ only"),
        ("cart app s3cret-token", "line 1 of {} has a token of at most 60 random bits: use 128 or more"),
        ("a/b app s3cret-token", "line 1 of {} must begin with a name of at most 64 letters"),
        (f"a app {STRONG}\nb read {STRONG}", "line 2 of {} repeats the token of another line"),
    ],
)
async def test_a_line_that_is_wrong_is_named_without_its_words(tmp_path: Path, content: str, said: str) -> None:
    file = secret_file(tmp_path / "tokens", content)
    with pytest.raises(SettingsError) as caught:
        await start_fails(access_tokens_file=str(file))
    assert said.format(file) in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_nothing_that_anonymous_callers_open_counts_against_others(open_shop: Open, tokens: Path) -> None:
    async with open_shop(access_tokens_file=str(tokens), max_streams=20, max_connection_streams=15) as shop:
        async with apart(shop.address) as first, apart(shop.address) as second:
            opened = [await is_watching_health(one) for one in (first, second) for _ in range(25)]
            assert opened.count(True) == 20
            watches = [shop.products.WatchProducts(pb.WatchProductsRequest(), **bearing(APP)) for _ in range(15)]
            for watch in watches:
                assert await asyncio.wait_for(watch.read(), DEADLINE)
            assert (await first_of(shop.products.WatchProducts(pb.WatchProductsRequest(), **bearing(APP)))).message == (
                "overloaded: 15 streams are open on this connection"
            )
            async with apart(shop.address) as third:
                watches += [third.products.WatchProducts(pb.WatchProductsRequest(), **bearing(APP)) for _ in range(5)]
                for watch in watches[15:]:
                    assert await asyncio.wait_for(watch.read(), DEADLINE)
                last = third.products.WatchProducts(pb.WatchProductsRequest(), **bearing(APP))
                assert (await first_of(last)).message == "overloaded: 20 streams are open"
        for watch in watches:
            watch.cancel()
        streams = inside.streams_of(inside.stack_of(shop.app.server))
        await until(lambda: not streams)
        assert not inside.by_connection_of(streams)


async def is_watching_health(shop: Shop) -> bool:
    health: Any = health_pb2_grpc.HealthStub(shop.channel)
    try:
        return bool(await health.Watch(health_pb2.HealthCheckRequest()).read())
    except grpc.aio.AioRpcError as error:
        assert error.code() == StatusCode.RESOURCE_EXHAUSTED
        return False
