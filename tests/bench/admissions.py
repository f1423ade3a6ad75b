"""The injector's webhook against a bare aiohttp handler with the same TLS: at full speed, and at 500 reviews a second."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from cache_sidecar.injector.certificates import renew
from tests.bench.comparison import Comparison, Measure, Measured, measured
from tests.bench.processes import BenchError, Process, running
from tests.bench.stack import Stack, free_port
from tests.injector.reviews import review

NAME = "injector.bench.svc"
_CONNECTIONS = 16
# A typical pod.
_VARIABLES = [{"name": f"SETTING_{number}", "value": "x" * 40} for number in range(20)]
_CONTAINERS = [{"name": name, "image": f"shop/{name}:1", "env": _VARIABLES} for name in ("web", "worker", "log-shipper")]
_POD = {"metadata": {"generateName": "web-", "labels": {"app": "web"}}, "spec": {"containers": _CONTAINERS}}


def comparisons(stack: Stack) -> list[Comparison]:
    """Returns the comparisons of this file."""
    return [
        Comparison(name="admission", goal=0.2, unit="reviews/s", sides=partial(_sides, stack, None)),
        Comparison(name="admission_500", goal=0.99, unit="reviews/s", sides=partial(_sides, stack, 500)),
    ]


@dataclass(frozen=True, kw_only=True)
class _Load:
    calls: int
    seconds: float
    latencies: list[float]

    def percentile_us(self, percent: float) -> float:
        """Returns a percentile of the latency."""
        rank = min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))
        return self.latencies[rank] * 1e6


@contextmanager
def _sides(stack: Stack, rate: int | None) -> Iterator[tuple[Measure, Measure]]:
    material = renew(None, [NAME], now=time.time(), lifetime=86400.0)
    for name, value in material.to_secret().items():
        (stack.directory / name).write_bytes(value)
    with _injector(stack) as (ours, port):
        request = _request()
        reply = uvloop.run(_exchange(port, stack.directory, request))
        answer = json.loads(reply)["response"]
        if b"initContainers" not in base64.b64decode(answer.get("patch", "")):
            raise BenchError(f"a patch was expected, {reply[:200]!r} came")
        (stack.directory / "answer.json").write_bytes(reply)
        with stack.helper("bare", ["tests.bench.bare_webhook", str(stack.directory)]) as (bare, bare_port):
            yield _side(stack, ours, port, rate), _side(stack, bare, int(bare_port), rate)


@contextmanager
def _injector(stack: Stack) -> Iterator[tuple[Process, int]]:
    port, web = free_port(), free_port()
    folder = stack.directory
    file = folder / "injector.toml"
    file.write_text(
        f'kubernetes_version = "1.34"\n'
        f'[server]\nlisten = "127.0.0.1:{port}"\nweb = "127.0.0.1:{web}"\nnamespace = "bench"\nlog_level = "warning"\n'
        f'[api]\nca_file = "{folder}/ca.crt"\n'
        f'[certificates]\nsource = "files"\ncert_file = "{folder}/tls.crt"\nkey_file = "{folder}/tls.key"\n'
        f'[reconciler]\nmode = "off"\n'
    )
    core = stack.cores.server if stack.cores else None
    with running(
        "injector", ["cache_sidecar", "injector", "--config", str(file)], core=core, directory=folder, code=stack.code
    ) as process:
        process.wait_until(lambda: uvloop.run(_is_up(port, folder)))
        yield process, port


def _side(stack: Stack, process: Process, port: int, rate: int | None) -> Measure:
    def measure(seconds: float) -> Measured:
        load = partial(uvloop.run, _load(port, stack.directory, seconds, rate))
        return measured(load, process=process, cores=stack.cores)

    return measure


async def _load(port: int, folder: Path, seconds: float, rate: int | None) -> _Load:
    """Sends reviews over some connections, each in turn; at a rate, latency counts from when a review was due."""
    request, latencies = _request(), list[float]()
    connections = [await _connect(port, folder) for _ in range(_CONNECTIONS)]
    start = time.perf_counter()

    async def work(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while True:
            due = start + (count * _CONNECTIONS + number) / rate if rate else time.perf_counter()
            if due - start >= seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            await _reply(reader)
            latencies.append(time.perf_counter() - due)
            count += 1
        writer.close()

    await asyncio.gather(*(work(number, *connection) for number, connection in enumerate(connections)))
    return _Load(calls=len(latencies), seconds=time.perf_counter() - start, latencies=sorted(latencies))


def _request() -> bytes:
    body = json.dumps(review(_POD)).encode()
    head = f"POST /inject/namespace HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _exchange(port: int, folder: Path, request: bytes) -> bytes:
    reader, writer = await _connect(port, folder)
    writer.write(request)
    reply = await _reply(reader)
    writer.close()
    return reply


async def _connect(port: int, folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = ssl.create_default_context(cafile=folder / "ca.crt")
    return await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=NAME)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"200 was expected, {head.splitlines()[0]!r} came")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


async def _is_up(port: int, folder: Path) -> bool:
    try:
        _, writer = await _connect(port, folder)
    except OSError:
        return False
    writer.close()
    return True
