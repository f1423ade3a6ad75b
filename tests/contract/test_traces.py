"""Traces as a collector gets them: which calls have one, what is in it, and what happens while the collector is away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from cache_sidecar.core import span_export
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support import inside
from tests.support.collector import CALLER, TRACE, Collector, collecting, parent
from tests.support.customers import Customer, item, new_request
from tests.support.databases import locked, run
from tests.support.shop import L1, STORE, Open, Shop, new_id, refused
from tests.support.until import until

GET = "cache_sidecar.v1.ProductService/GetProduct"
OTHER = "a" * 32


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as opened:
        yield opened


async def get(shop: Shop, id: str, traceparent: str = "", **metadata: str) -> Any:
    pairs = [("traceparent", traceparent)] if traceparent else []
    return await shop.products.GetProduct(pb.GetProductRequest(product_id=id), metadata=[*pairs, *metadata.items()])


async def forgotten(shop: Shop) -> str:
    """Returns the id of a product that no cache holds."""
    id = (await shop.create()).product_id
    await inside.dataset(shop.app, "product").drop([id])
    return id


async def remembered(shop: Shop) -> str:
    """Returns the id of a product that is in memory."""
    id = (await shop.create()).product_id

    async def is_hit() -> bool:
        await shop.get(id)
        return shop.remembers(id)

    await until(is_hit)
    return id


async def test_a_miss_is_a_trace_from_the_caller_to_the_statement(open_shop: Open, collector: Collector) -> None:
    async with open_shop(trace_endpoint=collector.address) as shop:
        reply = await get(shop, await forgotten(shop), parent(), tracestate="shop=1")
        assert reply.cache.source == STORE
        call = await collector.call(GET)
    assert (call.parent, call.kind, call.service, call.is_error) == (CALLER, "SERVER", "cache-sidecar", False)
    assert call.attributes == {"rpc.system.name": "grpc", "rpc.method": GET, "rpc.response.status_code": "OK"}
    assert call.events == ["missed in memory"]
    spans = collector.below(call)
    above = {span.id: name for name, span in spans.items()} | {call.id: "call"}
    chain = {
        "read product l2": "call",
        "load of product from Redis": "read product l2",
        "EVALSHA read": "load of product from Redis",
        "read product store": "call",
        "load of product from PostgreSQL": "read product store",
        "SELECT products": "load of product from PostgreSQL",
        # Behind the reply.
        "EVALSHA fill": "load of product from PostgreSQL",
    }
    assert {name: above[span.parent] for name, span in spans.items()} == chain
    redis, statement = spans["EVALSHA read"], spans["SELECT products"]
    node = f"{redis.attributes['server.address']}:{redis.attributes['server.port']}"
    assert node in inside.settings_of(shop.app).redis_nodes
    assert {name: value for name, value in redis.attributes.items() if name.startswith("db.")} == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "read",
    }
    assert {name: value for name, value in statement.attributes.items() if name.startswith("db.")} == {
        "db.system.name": "postgresql",
        "db.namespace": statement.attributes["db.namespace"],
        "db.operation.name": "SELECT",
        "db.query.summary": "SELECT products",
    }
    assert (redis.kind, statement.kind) == ("CLIENT", "CLIENT")
    assert call.began <= statement.began <= statement.ended <= call.ended


async def test_who_shares_a_load_waits_with_a_span_that_refers_to_it(
    open_shop: Open, collector: Collector, database: str
) -> None:
    async with open_shop(trace_endpoint=collector.address) as shop:
        id = await forgotten(shop)
        batch = inside.dataset(shop.app, "product").loader.store_batch
        loads, before = batch.loads, batch.coalesced
        async with locked(database):
            first = asyncio.create_task(get(shop, id, parent()))
            await until(lambda: batch.loads > loads)
            second = asyncio.create_task(get(shop, id, parent(OTHER)))
            await until(lambda: batch.coalesced > before)
        await asyncio.gather(first, second)
        loader, sharer = [collector.below(await collector.call(GET, trace)) for trace in (TRACE, OTHER)]
    load, wait = loader["load of product from PostgreSQL"], sharer["wait for load of product from PostgreSQL"]
    assert wait.links == {load.id}
    assert load.links == set(), "the sharer came when the load was under way"
    assert "SELECT products" in loader
    assert "SELECT products" not in sharer


async def test_who_waits_for_another_sidecar_says_so(open_shop: Open, collector: Collector, database: str) -> None:
    async with open_shop(trace_endpoint=collector.address) as first, open_shop(trace_endpoint=collector.address) as second:
        id = await forgotten(first)
        leases = inside.dataset(second.app, "product").loader.leases
        async with locked(database):
            loading = asyncio.create_task(get(first, id, parent()))
            await until(lambda: inside.dataset(first.app, "product").loader.store_batch.loads)
            waiting = asyncio.create_task(get(second, id, parent(OTHER)))
            await until(lambda: leases.loading_elsewhere([id]))
        await asyncio.gather(loading, waiting)
        spans = collector.below(await collector.call(GET, OTHER))
    assert spans["load of product elsewhere"].parent == spans["wait for product elsewhere"].id
    assert "SELECT products" not in spans


FLAGS = {
    parent(f"{1:032x}", "00"): False,
    parent(f"{2:032x}", "02"): False,
    parent(f"{3:032x}", "01"): True,
    parent(f"{4:032x}", "03"): True,
    parent(f"{5:032x}", "01", version="ff"): False,
    parent(f"{6:032x}", "01", version="01", more="-later"): True,
    parent(f"{7:032x}", "00", version="cc"): False,
    parent(f"{8:032x}", "01", more="-not-in-00"): False,
    parent(f"{9:032x}", "0"): False,
    parent("0" * 32, "01"): False,
    parent(f"{10:031x}G", "01"): False,
}


async def test_bit_0_of_the_flags_decides_for_hits_and_misses(open_shop: Open, collector: Collector) -> None:
    async with open_shop(trace_endpoint=collector.address) as shop:
        hit = await remembered(shop)
        before = inside.engine_host_of(shop.app).hits().get(f"/{GET}", ((), 0))[0]
        for traceparent in FLAGS:
            assert (await get(shop, hit, traceparent)).cache.source == L1
            assert (await refused(get(shop, "nobody", traceparent))).code is grpc.StatusCode.NOT_FOUND
        after = inside.engine_host_of(shop.app).hits().get(f"/{GET}", ((), 0))[0]
        sampled = [traceparent[3:35] for traceparent, is_sampled in FLAGS.items() if is_sampled]
        await until(lambda: all(sum(span.name == GET for span in collector.of(trace)) == 2 for trace in sampled))
    if inside.settings_of(shop.app).engine == "native":
        assert sum(after) - sum(before) == len(FLAGS), "traced or not, hits need no Python"
    assert {span.trace for span in collector.spans} == set(sampled)
    (miss,) = (span for span in collector.of(sampled[0]) if span.attributes["rpc.response.status_code"] == "NOT_FOUND")
    assert not miss.is_error, "as OpenTelemetry has it, that is no fault of the server"
    (span,) = (span for span in collector.of(sampled[0]) if span.attributes["rpc.response.status_code"] == "OK")
    assert (span.parent, span.kind) == (CALLER, "SERVER")
    assert 0 < span.ended - span.began < 60e9


async def test_of_calls_without_a_decision_a_fraction_is_traced(open_shop: Open, collector: Collector) -> None:
    async with open_shop(trace_endpoint=collector.address, trace_ratio=1.0) as shop:
        id = await remembered(shop)
        collector.spans.clear()
        await get(shop, id)
        await get(shop, id, parent(flags="00"))
        await refused(shop.get("nobody"))
        await until(lambda: any(span.attributes.get("rpc.response.status_code") == "NOT_FOUND" for span in collector.spans))
        await until(
            lambda: any(span.name == GET and span.attributes["rpc.response.status_code"] == "OK" for span in collector.spans)
        )
    assert not collector.of(TRACE), "its caller decided against it"
    assert not any(span.parent for span in collector.spans if span.kind == "SERVER")


async def test_a_stream_is_a_span(open_shop: Open, collector: Collector) -> None:
    async with open_shop(trace_endpoint=collector.address) as shop:
        watch = shop.products.WatchProducts(pb.WatchProductsRequest(), metadata=[("traceparent", parent())])
        await watch.initial_metadata()  # it has begun
        watch.cancel()
        span = await collector.call("cache_sidecar.v1.ProductService/WatchProducts")
    assert span.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_no_span_has_values(open_shop: Open, collector: Collector, database: str) -> None:
    canary = new_id("canary")
    async with open_shop(trace_endpoint=collector.address, trace_ratio=1.0) as shop:
        customer = Customer(shop.sidecar)
        await customer.create(canary, new_request(), note=canary)
        await customer.add(canary, item(canary, 1, engraving=canary))
        await shop.create(canary, title=canary)
        await refused(shop.create(canary))
        await shop.get(canary)
        await run(database, "ALTER TABLE cache_sidecar.products RENAME TO gone")
        await refused(shop.get(canary, bypass=True))
        await until(lambda: any(span.name == "INSERT products" and span.is_error for span in collector.spans))
        await until(lambda: any(span.name == "SELECT products" and span.is_error for span in collector.spans))
        services = {span.name.partition("/")[0].rpartition(".")[2] for span in collector.spans if span.kind == "SERVER"}
    assert {"SessionService", "CartService", "ProductService"} <= services
    failed = next(span for span in collector.spans if span.name == "SELECT products" and span.is_error)
    assert (failed.attributes["error.type"], failed.attributes["db.response.status_code"]) == ("UndefinedTable", "42P01")
    assert not [message for message in collector.messages if canary.encode() in message]


async def test_a_collector_that_hangs_delays_neither_calls_nor_the_end(
    open_shop: Open, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_export, "TIMEOUT", 3600.0)
    collector.gate.close()
    async with open_shop(trace_endpoint=collector.address, drain_seconds=1.0) as shop:
        id = await remembered(shop)
        await get(shop, id, parent())
        await collector.gate.reached()
        await get(shop, id, parent())
    assert not collector.spans


async def test_a_collector_that_is_away_is_a_dependency_that_fails(open_shop: Open) -> None:
    async with collecting() as collector:
        address = collector.address
    async with open_shop(trace_endpoint=address) as shop:
        id = await remembered(shop)
        await get(shop, id, parent())
        await until(lambda: any(one.what == "trace collector" for one in shop.app.failing_dependencies()))
        (failing,) = (one for one in shop.app.failing_dependencies() if one.what == "trace collector")
        assert failing.which == address
        assert "UNAVAILABLE: " in failing.reason
        assert "refused" in failing.reason.lower()
        async with collecting(address) as collector:
            await get(shop, id, parent())
            await collector.call(GET)
            await until(lambda: not any(one.what == "trace collector" for one in shop.app.failing_dependencies()))


async def test_the_line_of_a_failed_call_has_its_trace_sampled_or_not(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_shop() as shop:
        monkeypatch.setattr(inside.dataset(shop.app, "product"), "get", None)  # a defect
        with capture_logs() as lines:
            for flags in ("00", "01"):
                await refused(get(shop, "nobody", parent(flags=flags)))
            await refused(get(shop, "nobody"))
    failed = [line for line in lines if line["event"] == "call failed"]
    assert [line.get("trace_id") for line in failed] == [TRACE, TRACE, None]
