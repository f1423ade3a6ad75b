"""GET /metrics of a sidecar on each engine: what it says of calls, tiers and dependencies, and to whom."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.v1 import cart_service_pb2, cart_service_pb2_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_access import bearing, is_hit
from tests.injector.webhook import make_certificate
from tests.support import scrape
from tests.support.databases import locked, run
from tests.support.proxy import Proxy
from tests.support.shop import Open, Shop, new_id, refused
from tests.support.stockroom import Stockroom
from tests.support.tokens import secret_file, token
from tests.support.until import until

PRODUCTS = "cache_sidecar.v1.ProductService"
CARTS = "cache_sidecar.v1.CartService"
ANY_PORT = "127.0.0.1:0"


async def fetch(shop: Shop, *head: bytes) -> tuple[str, str]:
    return await scrape.fetch(shop.app.web_address, *head)


async def values(shop: Shop) -> scrape.Values:
    return await scrape.values(shop.app.web_address)


async def test_calls_are_counted_by_method_and_result(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        id = (await shop.create()).product_id
        await refused(shop.products.GetProduct(pb.GetProductRequest(product_id="none")))
        await refused(shop.products.GetProduct(pb.GetProductRequest()))
        carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
        for _ in range(3):
            await carts.GetCart(cart_service_pb2.GetCartRequest(user_id="u"))
        found = await values(shop)
        calls, reasons = found["cache_sidecar_calls_total"], found["cache_sidecar_call_errors_total"]
        assert calls[PRODUCTS, "CreateProduct", "OK"] == 1
        assert calls[PRODUCTS, "GetProduct", "NOT_FOUND"] == 1
        assert calls[PRODUCTS, "GetProduct", "INVALID_ARGUMENT"] == 1
        assert calls[CARTS, "GetCart", "OK"] == 3
        assert reasons[PRODUCTS, "GetProduct", "NOT_FOUND"] == 1
        assert reasons[PRODUCTS, "GetProduct", "INVALID_REQUEST"] == 1
        assert found["cache_sidecar_call_duration_seconds_count"][CARTS, "GetCart"] == 3
        assert found["cache_sidecar_call_duration_seconds_bucket"][CARTS, "GetCart", "+Inf"] == 3
        assert id not in (await fetch(shop))[1]


async def test_a_call_with_access_control_counts_once(open_shop: Open, tmp_path: Path) -> None:
    tokens = str(secret_file(tmp_path / "tokens", f"cart app {token('cart')}\n"))
    async with open_shop(web_address=ANY_PORT, access_tokens_file=tokens) as shop:
        carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
        request = cart_service_pb2.GetCartRequest(user_id="u")
        for more in ({}, {"compression": grpc.Compression.Gzip}):  # the native engine passes the latter on to grpc.aio
            await carts.GetCart(request, **bearing(token("cart")), **more)
            await refused(carts.GetCart(request, **bearing("nothing"), **more))
        found = await values(shop)
        calls = {key[2]: count for key, count in found["cache_sidecar_calls_total"].items() if key[:2] == (CARTS, "GetCart")}
        assert calls == {"OK": 2, "UNAUTHENTICATED": 2}
        assert found["cache_sidecar_call_errors_total"][CARTS, "GetCart", "INVALID_TOKEN"] == 2


async def test_hits_without_python_are_counted_too(open_shop: Open, engine: str) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        first = await values(shop)
        before = first["cache_sidecar_calls_total"][PRODUCTS, "GetProduct", "OK"]
        for _ in range(5):
            await shop.get(id)
        found = await values(shop)
        counts, sums = ("cache_sidecar_call_duration_seconds_count", "cache_sidecar_call_duration_seconds_sum")
        assert found[counts][PRODUCTS, "GetProduct"] == first[counts][PRODUCTS, "GetProduct"] + 5
        assert found[sums][PRODUCTS, "GetProduct"] > first[sums][PRODUCTS, "GetProduct"]
        assert found["cache_sidecar_calls_total"][PRODUCTS, "GetProduct", "OK"] == before + 5
        assert found["cache_sidecar_reads_hit_total"]["product", "l1"] >= 5
        assert found["cache_sidecar_l1_entries"]["product",] >= 1
        natively = found.get("cache_sidecar_native_hits_total", {})
        assert (natively.get((PRODUCTS, "GetProduct"), 0) >= 5) is (engine == "native")
        assert ("cache_sidecar_connections" in found) is (engine == "native")


async def test_a_traced_call_is_the_exemplar_of_its_bucket(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
        trace = "ab" * 16
        metadata = (("traceparent", f"00-{trace}-{'01' * 8}-01"),)
        await carts.GetCart(cart_service_pb2.GetCartRequest(user_id="u"), metadata=metadata)
        _, body = await fetch(shop, scrape.METRICS + b"Accept: application/openmetrics-text\r\n\r\n")
        (exemplar,) = [one.exemplar for family in parse_openmetrics(body) for one in family.samples if one.exemplar]
        assert exemplar.labels == {"trace_id": trace}
        assert 0 < exemplar.value < 60


async def test_streams_count_when_they_end(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        watch = shop.products.WatchProducts(pb.WatchProductsRequest())
        await watch.read()
        assert (await values(shop))["cache_sidecar_streams_in_progress"][()] == 1
        watch.cancel()

        async def is_counted() -> bool:
            found = await values(shop)
            ended = found.get("cache_sidecar_calls_total", {}).get((PRODUCTS, "WatchProducts", "CANCELLED"))
            return ended == 1 and found["cache_sidecar_streams_in_progress"][()] == 0

        await until(is_counted)


async def test_a_dependency_that_fails_is_shown(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        assert set((await values(shop))["cache_sidecar_dependency_failing"].values()) == {0}
        shop.app.dependencies.of("redis", "a:1").report_failure("it is away", effect="none")
        found = (await values(shop))["cache_sidecar_dependency_failing"]
        assert {key for key, failing in found.items() if failing} == {("redis", "a:1")}


async def test_attempts_to_take_more_than_there_is_are_counted_by_who_refused(open_shop: Open, database: str) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        stock, id = Stockroom(shop.channel), (await shop.create()).product_id
        await stock.set(id, 2)
        held = await stock.reserve({id: 2})
        assert (await refused(stock.reserve({id: 1}))).reason == "OUT_OF_STOCK"
        assert (await refused(stock.adjust(id, -1))).reason == "OUT_OF_STOCK"
        # Somebody changes a row by hand, so that the pieces cannot be given back: only the table's CHECK notices.
        await run(database, "UPDATE cache_sidecar.inventory SET reserved = 0 WHERE product_id = %s", [id])
        assert (await refused(stock.release(held.reservation_id))).code is StatusCode.UNAVAILABLE
        found = (await values(shop))["cache_sidecar_oversell_attempts_total"]
        assert found["admission",] + found["reservation",] == 1
        assert (found["adjustment",], found["check",]) == (1, 1)


async def test_a_reservation_that_postgresql_refuses_is_told_from_one_that_admission_refuses(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        stock, id = Stockroom(shop.channel), (await shop.create()).product_id
        await stock.set(id, 1)
        crowd = await asyncio.gather(*(stock.reserve({id: 1}) for _ in range(20)), return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in crowd) == 1
        found = (await values(shop))["cache_sidecar_oversell_attempts_total"]
        assert found["admission",] + found["reservation",] >= 19
        await refused(stock.reserve({id: 1}))
        assert (await values(shop))["cache_sidecar_oversell_attempts_total"]["admission",] == found["admission",] + 1


async def test_breakers_connections_and_calls_by_priority_are_shown(open_shop: Open, postgres: Postgres, database: str) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as store:
        dsn = f"{database.partition('@')[0]}@{store.address}/{database.rpartition('/')[2]}"
        async with open_shop(web_address=ANY_PORT, postgres=dsn) as shop:
            await shop.create()
            found = await values(shop)
            breakers = found["cache_sidecar_breaker_open"]
            ours = ("postgresql", "catalog, user, analytics", "reached")
            assert breakers[ours] == 0
            assert {key[2] for key in breakers if key[0] == "redis"} == {"reached", "written"}
            assert set(breakers.values()) == {0}
            nodes = found["cache_sidecar_redis_connections_limit"]
            assert {key[1] for key in breakers if key[0] == "redis"} == {key[0] for key in nodes}
            used = [found[f"cache_sidecar_redis_connections_{name}"] for name in ("in_use", "idle")]
            assert all(used[0][node] + used[1][node] <= nodes[node] for node in nodes)
            assert sum(map(sum, (one.values() for one in used))) > 0
            assert found["cache_sidecar_redis_waiting"][()] == 0
            assert found["cache_sidecar_service_calls_in_progress"][PRODUCTS, "normal"] == 0
            assert found["cache_sidecar_service_calls_in_progress"][f"{PRODUCTS}/SearchProducts", "low"] == 0
            assert found["cache_sidecar_calls_refused_total"][CARTS, "vital"] == 0
            store.cut()

            async def is_open() -> bool:
                await refused(shop.get(new_id()))
                return (await values(shop))["cache_sidecar_breaker_open"][ours] == 1

            await until(is_open)
            assert (await values(shop))["cache_sidecar_breaker_opened_total"][ours] == 1


async def test_refused_calls_are_counted_by_method_and_by_priority(open_shop: Open, database: str) -> None:
    async with open_shop(web_address=ANY_PORT, max_dataset_calls=4, postgres_timeout=30) as shop:
        async with locked(database):
            flood = [asyncio.ensure_future(refused(shop.get(new_id()))) for _ in range(40)]
            await until(lambda: sum(call.done() for call in flood) >= 36)
        reasons = [(await call).reason for call in flood]
        found = await values(shop)
        count = reasons.count("OVERLOADED")
        assert count >= 36
        assert found["cache_sidecar_calls_refused_total"][PRODUCTS, "normal"] == count
        assert found["cache_sidecar_calls_total"][PRODUCTS, "GetProduct", "RESOURCE_EXHAUSTED"] == count
        assert found["cache_sidecar_call_errors_total"][PRODUCTS, "GetProduct", "OVERLOADED"] == count


async def test_every_metric_of_the_list_is_served(
    open_shop: Open, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cache_sidecar.metrics.process.container_memory", lambda: (1 << 30, 1 << 20))
    make_certificate(tmp_path, now=time.time())
    async with open_shop(web_address=ANY_PORT, redis_tls_ca=str(tmp_path / "ca.crt")) as shop:
        await refused(shop.products.GetProduct(pb.GetProductRequest(product_id="none")))
        head, body = await fetch(
            shop, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
        )
        assert "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head
        found = {family.name for family in parse_openmetrics(body)}
        # There is no copy; `interop/test_mongodb.py` has one.
        listed = {metric.name for metric in definitions.of(Process.SIDECAR)} - {definitions.COPY_LAG.name}
        native_only = {
            one.name
            for one in (
                definitions.CONNECTIONS,
                definitions.CALLS_WAITING,
                definitions.NATIVE_HITS,
                definitions.NATIVE_EVENTS,
            )
        }
        assert found == (listed if engine == "native" else listed - native_only)
        assert f'engine="{engine}"' in body


@pytest.mark.parametrize(
    ("request_head", "answer"),
    [
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 421 Misdirected Request"),
        (b"GET /metricsx HTTP/1.0\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00\r\n", ""),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", ""),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", ""),
    ],
)
async def test_other_requests_are_answered_or_closed(open_shop: Open, request_head: bytes, answer: str) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        try:
            head, body = await fetch(shop, request_head)
        except ConnectionError:  # it was closed with bytes unread
            head, body = "", ""
        assert head.partition("\r\n")[0] == answer
        assert not body or answer != "HTTP/1.1 200 OK"
        assert (await fetch(shop))[0].startswith("HTTP/1.1 200")


async def test_clients_that_never_finish_do_not_keep_others_out_for_long(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_sidecar.metrics.web._SECONDS", 0.2)
    async with open_shop(web_address=ANY_PORT) as shop:
        host, _, port = shop.app.web_address.rpartition(":")
        held: list[Any] = [await asyncio.open_connection(host, int(port)) for _ in range(40)]

        async def is_served() -> bool:
            try:
                return (await fetch(shop))[0].startswith("HTTP/1.1 200")
            except ConnectionError:  # one too many
                return False

        await until(is_served)
        for _, writer in held:
            await scrape.closed(writer)


async def test_an_address_in_use_stops_the_start_with_one_line(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        with pytest.raises(SettingsError, match=r"web_address: cannot listen on 127.0.0.1:\d+"):
            async with open_shop(web_address=shop.app.web_address):
                pass


async def test_without_an_address_nothing_is_served(open_shop: Open) -> None:
    async with open_shop() as shop:
        assert shop.app.web_address == ""
        assert (await refused(shop.products.GetProduct(pb.GetProductRequest()))).code == StatusCode.INVALID_ARGUMENT
