"""The references for reads below L1: a program that calls the server directly, without a sidecar.

Runs as a process, `python -m tests.bench.direct redis|postgres JOB.json`. It prints `ready`; then, for each number of seconds
on its input, it reads the keys in turn with 32 workers, or as many as the job says, and prints the measurement as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from redis.asyncio.cluster import ClusterNode, RedisCluster

from cache_sidecar.config.settings import split_address
from cache_sidecar.tiers.redis.codec import HEADER
from cache_sidecar.v1.product_service_pb2 import GetProductResponse
from tests.bench.processes import Process

WORKERS = 32
_SELECT = "SELECT * FROM cache_sidecar.products WHERE product_id = %s"

Read = Callable[[str], Awaitable[object]]
"""Reads and decodes one key; raises if it does not exist."""


@dataclass(frozen=True, kw_only=True)
class DirectResult:
    """What a run measured."""

    calls: int
    seconds: float
    percentiles_us: dict[str, float]

    def percentile_us(self, percent: float) -> float:
        """Returns the latency in microseconds that 50 or 99 per cent of the reads did not exceed."""
        return self.percentiles_us[str(percent)]


def ask(process: Process, seconds: float) -> DirectResult:
    """Makes a process of this program measure."""
    return DirectResult(**json.loads(process.ask(str(seconds))))


async def measure(reads: Sequence[Read], keys: Sequence[str], seconds: float) -> DirectResult:
    source = cycle(keys)
    latencies: list[int] = []
    start = time.perf_counter()
    deadline = start + seconds

    async def work(read: Read) -> None:
        while time.perf_counter() < deadline:
            began = time.perf_counter_ns()
            await read(next(source))
            latencies.append(time.perf_counter_ns() - began)

    await asyncio.gather(*(work(read) for read in reads))
    elapsed = time.perf_counter() - start
    latencies.sort()
    at = {str(percent): latencies[len(latencies) * percent // 100] / 1000 for percent in (50, 99)}
    return DirectResult(calls=len(latencies), seconds=elapsed, percentiles_us=at)


async def redis_reads(addresses: Sequence[str]) -> list[Read]:
    """Returns reads of products by redis-py, with their decoding."""
    client = await RedisCluster(startup_nodes=[ClusterNode(*split_address(address)) for address in addresses])

    async def read(key: str) -> object:
        record = await client.get(key)
        assert isinstance(record, bytes), f"{key} is not in Redis"
        return GetProductResponse.FromString(record[HEADER:])

    return [read] * WORKERS


async def _postgres_reads(dsn: str, workers: int) -> list[Read]:
    async def reader() -> Read:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)

        async def read(product_id: str) -> object:
            (row,) = await (await connection.execute(_SELECT, (product_id,))).fetchall()
            return row

        return read

    return [await reader() for _ in range(workers)]


def _main(kind: str, job: dict[str, Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reading = redis_reads(job["addresses"]) if kind == "redis" else _postgres_reads(job["dsn"], job["workers"])
        reads = runner.run(reading)
        print("ready", flush=True)
        for line in sys.stdin:
            result = runner.run(measure(reads, job["keys"], float(line)))
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
