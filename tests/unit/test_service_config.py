"""protos/cache_sidecar/v1/service_config*.json: the retries and timeouts of every client. See also tests/interop."""

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

PROTOS = Path(cache_sidecar.v1.__path__[0]).parents[1] / "protos"
TEXT = (PROTOS / "cache_sidecar/v1/service_config.json").read_text()
WITH_TIMEOUTS = (PROTOS / "cache_sidecar/v1/service_config_timeouts.json").read_text()


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for file in sorted(Path(cache_sidecar.v1.__path__[0]).glob("*_service_pb2.py")):
        module: Any = importlib.import_module(f"cache_sidecar.v1.{file.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield service.full_name, method


def is_stream(method: MethodDescriptor) -> bool:
    return bool(method.server_streaming or method.client_streaming)


def configured() -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in json.loads(TEXT)["methodConfig"]:
        for name in entry["name"]:
            key = name["service"], name["method"]
            assert key not in found, f"{key} is named twice"
            found[key] = entry
    return found


def test_every_method_is_named_once_and_nothing_else() -> None:
    assert set(configured()) == {(service, method.name) for service, method in methods()}


@pytest.mark.parametrize(("service", "method"), list(methods()), ids=lambda value: getattr(value, "name", value))
def test_every_call_waits_for_a_connection_and_is_repeated_unless_it_is_a_stream(
    service: str, method: MethodDescriptor
) -> None:
    entry = configured()[service, method.name]
    assert entry["waitForReady"] is True
    if is_stream(method):
        assert "retryPolicy" not in entry, "a stream is resumed by its caller, who knows where"
        return
    assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert entry["retryPolicy"]["maxAttempts"] == 5, "gRPC makes no more"


def test_the_readme_says_of_each_that_is_repeated_why() -> None:
    rows = [line.split("|")[1] for line in (PROTOS / "README.md").read_text().splitlines() if line.startswith("|")]
    named = [name.strip() for row in rows for name in row.split(",")]
    unary = [method.name for _, method in methods() if not is_stream(method)]
    assert {name: named.count(name) for name in unary} == dict.fromkeys(unary, 1)


def test_the_other_file_differs_in_timeouts_alone() -> None:
    plain, other = json.loads(TEXT), json.loads(WITH_TIMEOUTS)
    assert "timeout" not in TEXT, "C-core takes seconds off it"
    for entry in other["methodConfig"]:
        assert ("timeout" in entry) == ("retryPolicy" in entry)
        entry.pop("timeout", None)
    assert other == plain


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


async def call(servicer: Failing, method: str) -> grpc.StatusCode:
    server = grpc.aio.server()
    pb_grpc.add_ProductServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.service_config", TEXT)]) as channel:
            stub: Any = pb_grpc.ProductServiceStub(channel)
            try:
                await getattr(stub, method)(getattr(pb, f"{method}Request")(), timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK
    finally:
        await server.stop(None)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
@pytest.mark.parametrize("method", ["GetProduct", "CreateProduct"])
async def test_a_call_survives_a_server_that_fails_twice(method: str, code: grpc.StatusCode) -> None:
    servicer = Failing(code, 2)
    assert await call(servicer, method) == grpc.StatusCode.OK
    assert servicer.calls == 3


async def test_a_server_that_fails_on_is_given_up() -> None:
    servicer = Failing(grpc.StatusCode.UNAVAILABLE, 100)
    assert await call(servicer, "GetProduct") == grpc.StatusCode.UNAVAILABLE
    assert servicer.calls == 5


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL])
async def test_no_other_code_is_retried(code: grpc.StatusCode) -> None:
    servicer = Failing(code, 1)
    assert await call(servicer, "GetProduct") == code
    assert servicer.calls == 1


@pytest.mark.parametrize("text", [TEXT, WITH_TIMEOUTS])
async def test_the_files_are_taken_as_they_are(text: str) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1", options=[("grpc.service_config", text)]) as channel:
        stub: Any = pb_grpc.ProductServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateProduct(pb.CreateProductRequest(), timeout=1.0)
    # It waits for a connection; a service config that gRPC cannot read fails every call at once, with a message about it.
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "onfig" not in (caught.value.details() or "")
