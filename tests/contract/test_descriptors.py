"""Sidecars with few file descriptors: clients cannot take all of them, and probes are answered whatever clients do."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.bench import frames
from tests.integration.test_probe import NOWHERE, ask
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Process, process
from tests.support.raw import RawConnection, message
from tests.support.until import DEADLINE, until

FILES = 500
FLOOD = 600
CHECK, GET = "/grpc.health.v1.Health/Check", "/cache_sidecar.v1.ProductService/GetProduct"
EXHAUSTED = 8


@contextlib.asynccontextmanager
async def flooded(port: int) -> AsyncIterator[None]:
    """Takes every connection that the sidecar has, and tries to take more. Their clients do nothing after the handshake."""
    writers = []
    for _ in range(FLOOD):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(frames.PREFACE + frames.settings({}))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # it was one too many
            await asyncio.wait_for(reader.readexactly(9), DEADLINE)
    try:
        yield
    finally:
        for writer in writers:
            writer.close()


@contextlib.asynccontextmanager
async def sidecar(tmp_path: Path, port: int, engine: str) -> AsyncIterator[Process]:
    config = NOWHERE | {
        "listen_address": f"127.0.0.1:{port}",
        "listen_socket": f"{tmp_path}/s",
        "probe_socket": f"{tmp_path}/p",
        "engine": engine,
    }
    async with process("serve", tmp_path, config, files=FILES) as started:
        assert await ask(f"unix:{tmp_path}/p", "--wait", str(DEADLINE)) == (0, ""), started.log.read_text()
        yield started


async def test_probes_are_answered_when_all_connections_are_taken(
    tmp_path: Path, choose_ports: ChoosePorts, engine: str
) -> None:
    (port,) = choose_ports(1)
    address = f"127.0.0.1:{port}"
    async with sidecar(tmp_path, port, engine) as started, grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=DEADLINE)
        async with flooded(port):
            assert psutil.Process(started.pid).num_fds() < FILES - 64, "the descriptors of its stores are kept free"
            for _ in range(3):
                for socket in ("s", "p"):
                    assert await ask(f"unix:{tmp_path}/{socket}") == (0, "")
                if engine == "native":
                    assert await ask(address) == (0, "")
            # Who came first is still served.
            await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ProductServiceStub(channel).GetProduct(pb.GetProductRequest(product_id="p"), timeout=DEADLINE)
            assert caught.value.code() is StatusCode.UNAVAILABLE, "PostgreSQL is away"
        assert started.process.returncode is None


async def test_beyond_the_maximum_only_health_checks_are_answered(
    tmp_path: Path, choose_ports: ChoosePorts, engine: str
) -> None:
    if engine == "aio":
        pytest.skip("grpc.aio closes connections beyond the maximum")
    (port,) = choose_ports(1)
    address = f"127.0.0.1:{port}"
    async with sidecar(tmp_path, port, engine):
        async with flooded(port), RawConnection.open(address) as raw:
            assert (await raw.call(CHECK, message(b""))).status == 0
            reply = await raw.call(GET, message(pb.GetProductRequest(product_id="p").SerializeToString()))
            assert reply.status == EXHAUSTED
            assert reply.message.endswith(" connections are taken: only health checks are answered")
            await asyncio.wait_for(raw.closed.wait(), DEADLINE)
            assert raw.told_to_go, "so that it connects again, when there may be room"
        assert await until(lambda: is_served(address)), "there is room again"


async def is_served(address: str) -> bool:
    async with RawConnection.open(address) as raw:
        reply = await raw.call(GET, message(pb.GetProductRequest(product_id="p").SerializeToString()))
        return reply.status == StatusCode.UNAVAILABLE.value[0]  # PostgreSQL is away


async def test_too_few_descriptors_are_one_line(tmp_path: Path, engine: str) -> None:
    config = NOWHERE | {"listen_address": "127.0.0.1:0", "engine": engine}
    async with process("serve", tmp_path, config, files=100) as started:
        assert await asyncio.wait_for(started.process.wait(), DEADLINE) == 64
        least = (64 + 2 * 33 + 4 * 32 + 8) + 64
        assert started.log.read_text() == (
            "cache-sidecar: the process may open 100 files, too few for its servers and clients: "
            f"raise the limit (`ulimit -n`) to at least {least}\n"
        )
    async with process("serve", tmp_path, config, files=least) as started:
        await until(lambda: "serving" in started.log.read_text())


async def test_the_soft_limit_is_raised_to_what_is_of_use() -> None:
    script = (
        "import resource; from cache_sidecar.config.settings import Settings; from cache_sidecar.server import descriptors;"
        "settings = Settings(redis_nodes='a:1', postgres_catalog='postgresql://a');"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (400, 2000)); descriptors.raise_limit(settings);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.of_clients(settings))"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await run.communicate()
    assert said.decode() == f"(2000, 2000) {2000 - (64 + 2 * 33 + 4 * 32 + 8)}\n"
