"""Reads by the Python client, by bare stubs, and by redis-py: programs that are compared with each other.

Runs as a process, `python -m tests.bench.client_reads KIND JOB.json`, which speaks as `tests.bench.direct` does.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import cache_sidecar_client
import grpc
import uvloop
from cache_sidecar_client import L0, Options, aio
from cache_sidecar_client.v1.product_service_pb2 import GetProductRequest
from cache_sidecar_client.v1.product_service_pb2_grpc import ProductServiceStub

from tests.bench.direct import DirectResult, Read, measure, redis_reads

CONCURRENT = 32
"How many reads a page makes at once, where reads are joined."
_CHANNEL = [("grpc.use_local_subchannel_pool", 1)]
_RUNS = 100
"Reads of L0 between two looks at the clock: one takes about as long as a read."


def _measure_sync(read: Callable[[str], object], keys: Sequence[str], seconds: float, runs: int = 1) -> DirectResult:
    source = cycle(keys)
    latencies: list[float] = []
    start = time.perf_counter()
    deadline = start + seconds
    while time.perf_counter() < deadline:
        some = [next(source) for _ in range(runs)]
        began = time.perf_counter_ns()
        for key in some:
            read(key)
        latencies.append((time.perf_counter_ns() - began) / runs)
    elapsed = time.perf_counter() - start
    latencies.sort()
    at = {str(percent): latencies[len(latencies) * percent // 100] / 1000 for percent in (50, 99)}
    # Of L0, the time of the reads alone: the keys are chosen outside of it.
    seconds_used = sum(latencies) * runs / 1e9 if runs > 1 else elapsed
    return DirectResult(calls=len(latencies) * runs, seconds=seconds_used, percentiles_us=at)


def _sync(kind: str, job: dict[str, Any]) -> Callable[[float], DirectResult]:
    """Returns what measures reads of one thread, one after the other, with all that a page looks at."""
    if kind == "bare-sync":
        stub = ProductServiceStub(grpc.insecure_channel(job["address"], _CHANNEL))
        return lambda seconds: _measure_sync(
            lambda key: stub.GetProduct(GetProductRequest(product_id=key), timeout=2.0), job["keys"], seconds
        )
    options = Options(address=job["address"], l0=L0(max_age=3600.0) if kind == "l0" else None)
    shop = cache_sidecar_client.connect(options=options)
    if kind == "client-sync":
        return lambda seconds: _measure_sync(shop.products.get, job["keys"], seconds)
    while any(shop.products.get(key).cache.source != "L0" for key in job["keys"]):  # type: ignore[union-attr]
        time.sleep(0.05)
    return lambda seconds: _measure_sync(shop.products.get, job["keys"], seconds, _RUNS)


async def _reads(kind: str, job: dict[str, Any]) -> list[Read]:
    """Returns the read of each of several workers."""
    if kind == "redis":
        return (await redis_reads(job["addresses"]))[: job["workers"]]
    if kind == "bare-aio":
        stub = ProductServiceStub(grpc.aio.insecure_channel(job["address"], _CHANNEL))

        async def bare(key: str) -> object:
            return await stub.GetProduct(GetProductRequest(product_id=key), timeout=2.0)

        return [bare] * job["workers"]
    shop = aio.connect(options=Options(address=job["address"], join=kind == "joined"))
    return [shop.products.get] * job["workers"]


def _main(kind: str, job: dict[str, Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if kind in {"bare-sync", "client-sync", "l0"}:
            run = _sync(kind, job)
        else:
            reads = runner.run(_reads(kind, job))

            def run(seconds: float) -> DirectResult:
                return runner.run(measure(reads, job["keys"], seconds))

        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(asdict(run(float(line)))), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
