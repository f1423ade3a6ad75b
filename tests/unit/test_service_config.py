"""protos/cache_sidecar/v1/service_config.json: the retries and timeouts of every client."""

import asyncio
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

import cache_sidecar.v1
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1 import product_service_pb2_grpc as pb_grpc
from cache_sidecar.v1.buf.validate import validate_pb2

FILE = Path(cache_sidecar.v1.__path__[0]).parents[1] / "protos/cache_sidecar/v1/service_config.json"
TEXT = FILE.read_text()


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for file in sorted(Path(cache_sidecar.v1.__path__[0]).glob("*_service_pb2.py")):
        module: Any = importlib.import_module(f"cache_sidecar.v1.{file.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield service.full_name, method


def configured() -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in json.loads(TEXT)["methodConfig"]:
        for name in entry["name"]:
            key = name["service"], name["method"]
            assert key not in found, f"{key} is named twice"
            found[key] = entry
    return found


def is_idempotent(method: MethodDescriptor) -> bool:
    """A read, or a write that cannot be sent without the request_id that makes a repeat harmless."""
    field = method.input_type.fields_by_name.get("request_id")
    if field is None:
        return True
    rules = field.GetOptions().Extensions[validate_pb2.field]
    return rules.ignore != validate_pb2.IGNORE_IF_ZERO_VALUE


def test_every_method_is_named_once_and_nothing_else() -> None:
    assert set(configured()) == {(service, method.name) for service, method in methods()}


@pytest.mark.parametrize(("service", "method"), list(methods()), ids=lambda value: getattr(value, "name", value))
def test_only_what_is_idempotent_is_retried_and_only_when_unavailable(service: str, method: MethodDescriptor) -> None:
    entry = configured()[service, method.name]
    if method.server_streaming:
        assert "timeout" not in entry
        assert "retryPolicy" not in entry, "a watch is resumed by its caller, from the last version"
        return
    assert entry["timeout"].endswith("s")
    assert ("retryPolicy" in entry) == is_idempotent(method)
    if "retryPolicy" in entry:
        assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        assert 2 <= entry["retryPolicy"]["maxAttempts"] <= 5


class Failing(pb_grpc.ProductServiceServicer):
    """Fails every method so many times before it succeeds."""

    def __init__(self, code: grpc.StatusCode, times: int) -> None:
        self._code = code
        self._times = times
        self.calls = 0

    async def _answer(self, reply: Any, context: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            await context.abort(self._code, "not now")
        return reply

    async def GetProduct(self, request: Any, context: Any) -> Any:
        return await self._answer(pb.GetProductResponse(), context)

    async def CreateProduct(self, request: Any, context: Any) -> Any:
        return await self._answer(pb.CreateProductResponse(), context)

    async def ListProducts(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()


def with_timeouts(timeout: str) -> str:
    """Returns the file with other timeouts: a busy machine is not what most tests are about."""
    config = json.loads(TEXT)
    for entry in config["methodConfig"]:
        if "timeout" in entry:
            entry["timeout"] = timeout
    return json.dumps(config)


async def call(servicer: Failing, method: str, timeout: str = "60s") -> grpc.StatusCode:
    server = grpc.aio.server()
    pb_grpc.add_ProductServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        options = [("grpc.service_config", with_timeouts(timeout))]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            stub: Any = pb_grpc.ProductServiceStub(channel)
            try:
                await getattr(stub, method)(getattr(pb, f"{method}Request")())
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK
    finally:
        await server.stop(None)


async def test_a_read_survives_a_server_that_fails_twice() -> None:
    servicer = Failing(grpc.StatusCode.UNAVAILABLE, 2)
    assert await call(servicer, "GetProduct") == grpc.StatusCode.OK
    assert servicer.calls == 3


async def test_a_server_that_fails_on_is_given_up() -> None:
    servicer = Failing(grpc.StatusCode.UNAVAILABLE, 100)
    assert await call(servicer, "GetProduct") == grpc.StatusCode.UNAVAILABLE
    assert servicer.calls == 4


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL])
async def test_no_other_code_is_retried(code: grpc.StatusCode) -> None:
    servicer = Failing(code, 1)
    assert await call(servicer, "GetProduct") == code
    assert servicer.calls == 1


async def test_a_write_is_not_retried() -> None:
    servicer = Failing(grpc.StatusCode.UNAVAILABLE, 1)
    assert await call(servicer, "CreateProduct") == grpc.StatusCode.UNAVAILABLE
    assert servicer.calls == 1


async def test_a_timeout_is_enforced() -> None:
    assert await call(Failing(grpc.StatusCode.OK, 0), "ListProducts", "0.1s") == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_file_is_taken_as_it_is() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1", options=[("grpc.service_config", TEXT)]) as channel:
        stub: Any = pb_grpc.ProductServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateProduct(pb.CreateProductRequest())
    # A service config that gRPC cannot read fails every call with a message about it.
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "onfig" not in (caught.value.details() or "")
