"""A whole sidecar, as shops in several languages call it: a hit, a batch, a write, an error, a stream, a deadline."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import google.rpc
import grpc
import psycopg
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import cache_pb2, product_service_pb2, product_service_pb2_grpc
from tests.interop.running import run
from tests.support import inside
from tests.support.launch import Sidecar, in_process, settings_for
from tests.support.until import until

PROJECT = Path(__file__).parents[2]
PROTOS = PROJECT / "protos"
GOOGLE = Path(next(iter(google.rpc.__path__))).parents[1]


class Shop(NamedTuple):
    sidecar: Sidecar
    target: str

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(inside.streams_of(inside.stack_of(self.sidecar.app.server)))

    def answered_in_rust(self, method: str) -> int:
        """Returns how many calls of a method of products the native engine answered by itself."""
        hits = inside.listener_of(inside.engine_of(self.sidecar.app.server)).hits()
        counts, _ = hits[f"/cache_sidecar.v1.ProductService/{method}"]
        return sum(counts)


@pytest.fixture
async def shop(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, engine: str, transport: str, tmp_path: Path
) -> AsyncIterator[Shop]:
    """A sidecar on an engine, in which nobody gets a session made."""
    path = tmp_path / "s.sock"
    more = {"engine": engine, "listen_socket": str(path), "redis_timeout": 5.0, "postgres_timeout": 20.0}
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace, **more)
    async with in_process(settings) as sidecar, locked(database, "sessions"):
        yield Shop(sidecar, sidecar.address if transport == "tcp" else f"unix:{path}")


@contextlib.asynccontextmanager
async def locked(database: str, table: str) -> AsyncIterator[None]:
    """Holds up whoever comes to a table."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(f"LOCK TABLE cache_sidecar.{table} IN ACCESS EXCLUSIVE MODE")
        yield


pytestmark = pytest.mark.parametrize("transport", ["tcp", "unix"])


async def test_python(shop: Shop, engine: str) -> None:
    assert await asyncio.to_thread(_sources, shop.target) == [cache_pb2.SOURCE_STORE, cache_pb2.SOURCE_L1]
    assert engine == "aio" or shop.answered_in_rust("GetProduct") == 1


def _sources(target: str) -> list[int]:
    with grpc.insecure_channel(target) as channel:
        products: Any = product_service_pb2_grpc.ProductServiceStub(channel)
        request = product_service_pb2.CreateProductRequest()
        request.product.product_id, request.product.title, request.product.price.currency_code = "mug", "A mug", "EUR"
        products.CreateProduct(request, timeout=20)
        asked = [product_service_pb2.GetProductRequest(product_id="mug") for _ in range(2)]
        asked[0].options.bypass = True
        return [products.GetProduct(request, timeout=20).cache.source for request in asked]


async def test_node(shop: Shop, engine: str, node: Path) -> None:
    script = Path(__file__).parent / "client.js"
    done = await run("node", script, shop.target, PROTOS, GOOGLE, NODE_PATH=str(node / "node_modules"))
    assert done.code == 0, done.errors
    assert json.loads(done.said) == {
        "written": "A mug",
        "watched": {"seen": True, "code": "CANCELLED"},
        "hit": {"title": "A cup", "source": "SOURCE_L1"},
        "batch": {"source": "SOURCE_STORE", "found": 1, "missing": ["nobody"]},
        "error": {"code": "NOT_FOUND", "reason": "NOT_FOUND"},
        "deadline": "DEADLINE_EXCEEDED",
    }
    await until(lambda: shop.streams == 0)
    assert engine == "aio" or shop.answered_in_rust("GetProduct") >= 1


class Grpcurl:
    """grpcurl, told where the sidecar is, which describes itself."""

    def __init__(self, path: Path, target: str) -> None:
        # It takes a path for a unix socket where it is told to.
        self._command = [path, "-plaintext", *(["-unix"] if target.startswith("unix:") else [])]
        self._address = target.removeprefix("unix:")

    async def ask(self, method: str, request: Any, *options: str) -> Any:
        """Makes a call, and returns its reply; fails when it fails."""
        code, said, errors = await run(*self._command, *self._request(method, request, options))
        assert code == 0, errors
        return json.loads(said)

    async def refused(self, method: str, request: Any, *options: str) -> str:
        """Makes a call that is to fail, and returns what is said."""
        code, _, errors = await run(*self._command, *self._request(method, request, options))
        assert code != 0
        return errors

    def _request(self, method: str, request: Any, options: tuple[str, ...]) -> list[str]:
        return [*options, "-d", json.dumps(request), self._address, f"cache_sidecar.v1.{method}"]


async def test_grpcurl(shop: Shop, engine: str, grpcurl: Path) -> None:
    curl = Grpcurl(grpcurl, shop.target)
    product = {"productId": "mug", "title": "A mug", "active": True, "price": {"currencyCode": "EUR", "units": 12}}
    created = await curl.ask("ProductService/CreateProduct", {"product": product})
    assert created["product"]["title"] == "A mug"
    await curl.ask("ProductService/GetProduct", {"productId": "mug"})
    hit = await curl.ask("ProductService/GetProduct", {"productId": "mug"})
    assert (hit["product"]["title"], hit["cache"]["source"]) == ("A mug", "SOURCE_L1")
    batch = await curl.ask("ProductService/BatchGetProducts", {"productIds": ["mug", "nobody"]})
    assert (len(batch["products"]), batch["missing"]) == (1, ["nobody"])
    error = await curl.refused("ProductService/GetProduct", {"productId": "nobody"})
    assert "NotFound" in error
    assert "google.rpc.ErrorInfo" in error
    late = await curl.refused("SessionService/CreateSession", {"userId": "u"}, "-max-time", "0.3")
    assert "DeadlineExceeded" in late
    late = await curl.refused("ProductService/WatchProducts", {}, "-max-time", "0.3")
    assert "DeadlineExceeded" in late
    await until(lambda: shop.streams == 0)
    assert engine == "aio" or shop.answered_in_rust("GetProduct") >= 1


async def test_grpcurl_takes_the_target_as_grpc_writes_it(shop: Shop, grpcurl: Path) -> None:
    code, said, errors = await run(grpcurl, "-plaintext", shop.target, "list")
    assert code == 0, errors
    assert "cache_sidecar.v1.ProductService" in said.splitlines()
