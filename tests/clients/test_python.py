"""The Python client, with a server in the test's own process: its callers' mistakes stay their own."""

import asyncio
import contextlib
import decimal
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent import futures
from decimal import Decimal
from typing import Any

import grpc
import pytest
from cache_sidecar_client import L0, Call, Client, Money, Options, Product, SidecarError, aio, connect, event_message, values
from cache_sidecar_client.errors import ClientClosed, InvalidRequest, NotFound
from cache_sidecar_client.v1 import product_pb2, product_service_pb2, product_service_pb2_grpc

from tests.support import inside
from tests.support.until import until


class Catalogue(product_service_pb2_grpc.ProductServiceServicer):
    """Has every product whose ID begins with p, and refuses those that contain `bad`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def GetProduct(self, request: Any, context: grpc.ServicerContext) -> product_service_pb2.GetProductResponse:
        if not request.product_id or "bad" in request.product_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "product_id")
        return product_service_pb2.GetProductResponse(product=product_pb2.Product(product_id=request.product_id))

    def BatchGetProducts(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.batches.append(list(request.product_ids))
        if any(not id or "bad" in id for id in request.product_ids):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "product_ids[0]")
        found = [id for id in request.product_ids if id.startswith("p")]
        return product_service_pb2.BatchGetProductsResponse(
            products=[product_pb2.Product(product_id=id) for id in found],
            product_caches=[{} for _ in found],
            missing=[id for id in request.product_ids if id not in found],
        )

    def UpdateProduct(self, request: Any, context: grpc.ServicerContext) -> product_service_pb2.UpdateProductResponse:
        del context
        return product_service_pb2.UpdateProductResponse(product=request.product)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def address(catalogue: Catalogue) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    product_service_pb2_grpc.add_ProductServiceServicer_to_server(catalogue, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(1.0).wait()


IDS = ["p-1", "p-2", "", "x" * 129, "p\n", "\ud800", "p-bad", "none", "p-3"]


def check_joined(results: Sequence[Any], catalogue: Catalogue) -> None:
    names = [each.product_id if isinstance(each, Product) else type(each) for each in results]
    assert names[:2] == ["p-1", "p-2"]
    assert names[2] is InvalidRequest
    assert names[5] is UnicodeEncodeError
    assert names[6:] == [InvalidRequest, NotFound, "p-3"]
    assert catalogue.batches[0] == ["p-1", "p-2", "p-bad", "none", "p-3"]


async def test_an_invalid_id_fails_its_own_joined_get_only(address: str, catalogue: Catalogue) -> None:
    async with aio.connect(address, options=Options(join=True)) as shop:
        results = await asyncio.gather(*map(shop.products.get, IDS), return_exceptions=True)
    check_joined(results, catalogue)


def test_an_invalid_id_of_a_thread_fails_no_other_thread(address: str, catalogue: Catalogue) -> None:
    def get(shop: Client, id: str) -> object:
        try:
            return shop.products.get(id)
        except (SidecarError, ValueError) as error:
            return error

    options = Options(join=True, join_window=0.5)
    with connect(address, options=options) as shop, futures.ThreadPoolExecutor(len(IDS)) as threads:
        running = []
        for id in IDS:
            running.append(threads.submit(get, shop, id))
            with contextlib.suppress(futures.TimeoutError):
                running[-1].result(timeout=0.02)  # so that they join in their order
        results = [each.result() for each in running]
    check_joined(results, catalogue)


def test_after_close_every_call_says_that_the_client_is_closed(address: str) -> None:
    shop = connect(address)
    assert shop.products.get("p-1").product_id == "p-1"
    shop.close()
    shop.close()
    with pytest.raises(ClientClosed):
        shop.wait_until_ready(1.0)
    with pytest.raises(ClientClosed):
        next(shop.events.stream([[]]))


async def test_after_close_every_call_says_so_with_asyncio(address: str) -> None:
    shop = aio.connect(address)
    assert (await shop.products.get("p-1")).product_id == "p-1"
    await asyncio.gather(shop.close(), shop.close())
    with pytest.raises(ClientClosed):
        await shop.wait_until_ready(1.0)
    with pytest.raises(ClientClosed):
        await anext(shop.events.stream([[]]))


class Silent(grpc.GenericRpcHandler):
    """Answers no call, and notes each that has arrived."""

    def __init__(self) -> None:
        self.arrived: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def wait(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
            self.arrived.append(details.method.rpartition("/")[2])
            await asyncio.Event().wait()
            yield b""

        return grpc.stream_stream_rpc_method_handler(wait)


@contextlib.asynccontextmanager
async def silence() -> AsyncIterator[tuple[Silent, str]]:
    """A server that answers nothing, and its address."""
    silent, server = Silent(), grpc.aio.server()
    server.add_generic_rpc_handlers((silent,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield silent, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_close_ends_what_is_under_way_with_asyncio() -> None:
    async with silence() as (silent, address):
        shop = aio.connect(address, options=Options(join=True, read_timeout=600))
        events = shop.events.stream([[event_message("SEARCH", user_id="ada", search_query="mug")]])
        calls = [
            shop.products.get("a"),
            shop.products.get("b"),
            shop.products.get("c", bypass=True),
            shop.carts.get("ada"),
            anext(shop.products.watch()),
            anext(events),
            shop.wait_until_ready(600),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: len(silent.arrived) >= len(calls) - 1)  # two are joined
        tasks[3].cancel()
        await shop.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ClientClosed] * 3 + [asyncio.CancelledError] + [ClientClosed] * 3


def test_a_client_of_another_event_loop_says_so(address: str) -> None:
    async def made() -> aio.Client:
        shop = aio.connect(address, options=Options(join=True))
        assert await shop.products.get("p-1")
        return shop

    async def watched() -> None:
        async for _ in shop.products.watch():
            pass

    shop = asyncio.run(made())
    for use in (lambda: shop.products.get("p-1"), lambda: shop.products.get("p-1", bypass=True), watched, shop.close):
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            asyncio.run(use())
    with pytest.raises(RuntimeError, match="made in a running event loop"):
        aio.connect(address)


def test_an_edit_of_a_cart_is_made_once(address: str) -> None:
    with connect(address) as shop:
        edit = shop.carts.edit("user")
        with contextlib.suppress(ZeroDivisionError), edit as cart:
            cart.add("p-1", 1 // 0, "1 EUR")
        with pytest.raises(RuntimeError, match="made before"), edit:
            pass


def test_a_hook_that_fails_does_not_fail_the_write(address: str, caplog: pytest.LogCaptureFixture) -> None:
    def on_call(call: Call) -> None:
        raise RuntimeError(f"no label for {call.method}")

    with caplog.at_level(logging.WARNING), connect(address, options=Options(on_call=on_call)) as shop:
        assert shop.products.update("p-1", title="A mug").title == "A mug"
        assert shop.products.update("p-1", title="A cup").title == "A cup"
        with pytest.raises(InvalidRequest):
            shop.products.get("")
    assert [record.message for record in caplog.records] == [
        "on_call has failed; the call itself is not affected. This is logged once"
    ]


@pytest.mark.parametrize("amount", ["123456.78", "-0.123456789", "9223372036854775807.999999999"])
def test_amounts_are_exact_whatever_the_precision_of_the_application_is(amount: str) -> None:
    with decimal.localcontext(decimal.Context(prec=3)):
        message = values.money_message(Money(Decimal(amount), "EUR"))
        assert str(values.money_of(message).amount) == amount


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "1e19", "1e400", "1e-400", "0.0000000001"])
def test_what_is_no_amount_is_a_value_error(amount: str) -> None:
    with pytest.raises(ValueError, match=r"is no amount|too large|nine decimal places"):
        values.money_message(Money(Decimal(amount), "EUR"))
    with pytest.raises(ValueError, match="is no amount"):
        Money.of("² EUR")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_l0_tries_again_whatever_has_ended_its_watch_and_keeps_no_threads(address: str) -> None:
    failures: list[str] = []

    def metadata() -> list[tuple[str, str]]:
        if threading.current_thread().name == "cache-sidecar-client":
            failures.append("L0")
            raise RuntimeError("no trace")
        return []

    with connect(address, options=Options(l0=L0(), metadata=metadata)) as shop:
        for number in range(20):
            assert shop.products.get("p-1").product_id == "p-1"
            until = time.monotonic() + 10
            while len(failures) <= number:
                assert time.monotonic() < until, "the watch was not tried again"
                assert shop.products.get("p-1").product_id == "p-1"
        assert len(inside.threads_of(shop)) < 5


_FORKED = """
import os, signal, sys, cache_sidecar_client
from cache_sidecar_client import L0, Options
address, is_used, join, l0 = sys.argv[1], *map(int, sys.argv[2:])
shop = cache_sidecar_client.connect(options=Options(address=address, join=bool(join), l0=L0() if l0 else None, read_timeout=60.0))
if is_used:
    shop.products.get("p-1")
if not os.fork():
    signal.alarm(120)  # does not outlive the test, if it hangs
    try:
        print(shop.products.get("p-1").product_id, flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    shop.close()
    os._exit(0)
os.wait()
print(shop.products.get("p-2").product_id)
"""


@pytest.mark.parametrize(("join", "l0"), [("0", "0"), ("1", "0"), ("0", "1")], ids=["plain", "joined", "l0"])
@pytest.mark.parametrize(
    ("is_used", "expected"), [("0", "p-1"), ("1", "the client was used before this process was forked, .+ in each process")]
)
def test_a_client_is_used_by_one_process(address: str, is_used: str, expected: str, join: str, l0: str) -> None:
    """As under gunicorn's `preload_app`; what gRPC has begun does not survive a fork, if only other threads make calls."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKED, address, is_used, join, l0], capture_output=True, text=True, timeout=120, check=False
    )
    assert re.fullmatch(f"{expected}\np-2\n", done.stdout), done.stderr
