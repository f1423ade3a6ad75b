"""A megabyte that unpacks to a gigabyte costs the sidecar no memory."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process, serving
from tests.support.raw import RawConnection, message

GET = "/cache_sidecar.v1.ProductService/GetProduct"
EXHAUSTED = 8
MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@pytest.fixture(scope="module")
async def sidecar(
    valkey_cluster: ValkeyCluster,
    shared_database: str,
    engine: str,
    choose_ports: ChoosePorts,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[str, int]]:
    """A sidecar's address and process id."""
    (port,) = choose_ports(1)
    config = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": shared_database,
        "namespace": "bombs",
        "engine": engine,
        "listen_address": f"127.0.0.1:{port}",
        "log_level": "error",
    }
    async with process("serve", tmp_path_factory.mktemp("bombs"), config) as started:
        await serving(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}", started.pid


def bomb(size: int, *, bits: int) -> bytes:
    """Returns zeros packed: a block that is flushed can be repeated, so that making a gigabyte takes no time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    start = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (size // MIB)


def peak(pid: int) -> int:
    """Returns the most memory a process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_a_bomb_is_refused_and_costs_no_memory(sidecar: tuple[str, int], encoding: str, bits: int) -> None:
    address, pid = sidecar
    packed = bomb(1024 * MIB, bits=bits)
    assert MIB // 2 < len(packed) < 2 * MIB
    async with RawConnection.open(address) as raw:
        before = peak(pid)
        for _ in range(3):
            reply = await raw.call(GET, message(packed, compressed=True), encoding=encoding)
            assert reply.status == EXHAUSTED
        assert peak(pid) - before < 64 * MIB


async def test_many_bombs_at_once_cost_no_more_than_their_limit_each(sidecar: tuple[str, int]) -> None:
    address, pid = sidecar
    packed = bomb(64 * MIB, bits=31)
    before = peak(pid)

    async def throw() -> int | None:
        async with RawConnection.open(address) as raw:
            return (await raw.call(GET, message(packed, compressed=True), encoding="gzip")).status

    assert set(await asyncio.gather(*(throw() for _ in range(20)))) == {EXHAUSTED}
    assert peak(pid) - before < 20 * 8 * MIB


async def test_a_request_just_over_the_limit_when_unpacked_is_refused(sidecar: tuple[str, int]) -> None:
    address, _ = sidecar
    fits = pb.GetProductRequest(product_id="x" * (4 * MIB - 100)).SerializeToString()
    over = pb.GetProductRequest(product_id="x" * (4 * MIB)).SerializeToString()
    async with RawConnection.open(address) as raw:
        for data, status in ((fits, 3), (over, EXHAUSTED)):
            reply = await raw.call(GET, message(gzip.compress(data), compressed=True), encoding="gzip")
            assert reply.status == status


async def test_violations_by_the_million_cost_no_memory_either(sidecar: tuple[str, int]) -> None:
    address, pid = sidecar
    data = pb.BatchGetProductsRequest(product_ids=[""] * 2_000_000).SerializeToString()
    before = peak(pid)
    async with RawConnection.open(address) as raw:
        reply = await raw.call("/cache_sidecar.v1.ProductService/BatchGetProducts", message(data))
    assert reply.status == 3
    assert peak(pid) - before < 200 * MIB
