"""Honest callers in a process of their own: one that gets hits, and one whose calls Python answers.

`python -m tests.contract.hostile.others ADDRESS PRODUCT` calls until its input ends. For a line `count` it prints how many calls
there were of each kind, for a line `take` what came of them, and begins anew; both as a line of JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1 import product_service_pb2_grpc as pb_grpc
from tests.support.until import until

# Metadata that a service might look at keeps a call from being answered in Rust.
KINDS: dict[str, tuple[tuple[str, str], ...]] = {"hits": (), "Python": (("x-shop", "1"),)}
# Seconds from one call to the next.
PAUSE = 0.002


@dataclass
class Seen:
    """What came of the calls of one kind."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Returns it for JSON; times in milliseconds."""
        ordered = sorted(self.seconds)
        times = {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 2) for name, share in _SHARES} if ordered else {}
        return {"calls": len(ordered), "errors": dict(self.errors), **times}


_SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


class Others:
    """The process, as a test sees it; a context."""

    def __init__(self, address: str, product: str) -> None:
        self._arguments = (sys.executable, "-m", "tests.contract.hostile.others", address, product)

    async def __aenter__(self) -> Self:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        self._process = await asyncio.create_subprocess_exec(*self._arguments, **pipes)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def take(self, *, at_least: int) -> dict[str, dict[str, Any]]:
        """Returns what came of the calls since this was last called, once there were so many of each kind."""
        await until(lambda: self._are(at_least), seconds=60)
        return await self._ask("take")

    async def _are(self, count: int) -> bool:
        return min((await self._ask("count")).values()) >= count

    async def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what.encode() + b"\n")
        reply: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return reply


async def _call(stub: Any, product: str, metadata: Any, seen: dict[str, Seen], kind: str) -> None:
    while True:
        began = time.perf_counter()
        try:
            await stub.GetProduct(pb.GetProductRequest(product_id=product), metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            seen[kind].errors[f"{error.code().name}: {error.details()}"] += 1
        seen[kind].seconds.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)


async def _main(address: str, product: str) -> None:
    seen = {kind: Seen() for kind in KINDS}
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = pb_grpc.ProductServiceStub(channel)
        callers = [asyncio.ensure_future(_call(stub, product, metadata, seen, kind)) for kind, metadata in KINDS.items()]
        while line := await lines.readline():
            if line == b"count\n":
                answer: dict[str, Any] = {kind: len(seen[kind].seconds) for kind in KINDS}
            else:
                answer = {kind: seen[kind].summary() for kind in KINDS}
                seen |= {kind: Seen() for kind in KINDS}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
