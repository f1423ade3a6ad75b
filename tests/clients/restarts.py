"""A sidecar is killed and started again while a library's program writes: no write lost or doubled, no error, a whole watch.

The program reads a plan from its standard input, prints `written` for each write that was acknowledged, and in the end, after
the line `stop`, one line of JSON: `clients/go/cmd/restart`, `clients/typescript/conformance/restart.ts` and `Restart.java` do
the same.
"""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from tests.interop.test_service_config import Serving
from tests.support.launch import without_retries
from tests.support.until import until

PROJECT = Path(__file__).parents[2]
FIGURES = PROJECT / "build/client_restarts.json"
KILLS = 4
# Of each, so many before the next kill.
WRITES = 50
USERS = 8


class _Program:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.written = 0
        self.last = ""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.last = line.decode()
            self.written += self.last == "written\n"

    async def write(self, seconds: float) -> None:
        """Returns when so many more writes were made, or when it has ended."""
        wanted = self.written + WRITES
        await until(lambda: self.written >= wanted or self.reading.done(), seconds=seconds)


async def keep_killing(command: list[str], sidecar: Serving, *, deadline: int, **plan: str) -> dict[str, Any]:
    """Runs the program, kills its sidecar `KILLS` times, and compares what it was told with what there is; returns its report.

    `deadline` is that of its calls in seconds; it says nothing of how fast this machine is.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=None, limit=2**24
    )
    try:
        assert process.stdin is not None
        program = _Program(process)
        asked = {"address": sidecar.address, "users": USERS, "timeout": deadline, **plan}
        process.stdin.write(f"{json.dumps(asked)}\n".encode())
        for number in range(KILLS):
            await program.write(deadline)
            # Every other time it may end what it has begun.
            await sidecar.end(signal.SIGTERM if number % 2 else signal.SIGKILL)
            await sidecar.start()
        await program.write(deadline)
        process.stdin.write(b"stop\n")
        await asyncio.wait_for(program.reading, deadline + 40)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report: dict[str, Any] = json.loads(program.last)
    assert report["errors"] == [], report["errors"]
    assert await _pieces(sidecar.address, list(report["added"])) == report["added"]
    assert report["missed"] == 0
    return report


def check_told(report: dict[str, Any]) -> None:
    """Checks that the watch has told each update once, in their order: and the first version, if that was not there before it."""
    assert report["told"] == sorted(set(report["told"]))
    assert set(report["versions"]) <= set(report["told"])
    assert len(report["told"]) - len(report["versions"]) in {0, 1}


async def _pieces(address: str, users: list[str]) -> dict[str, int]:
    """Returns how many pieces are in the carts, by user."""
    found = {}
    async with without_retries(address) as channel:
        stub: Any = CartServiceStub(channel)
        for user in users:
            request = carts.GetCartRequest(user_id=user)
            request.options.bypass = True
            reply = await stub.GetCart(request)
            found[user] = sum(item.quantity for item in reply.cart.items)
    return found


def note_report(name: str, report: dict[str, Any]) -> None:
    """Keeps the figures of a program's report."""
    writes = sum(report["added"].values()) + report.get("reserved", 0) + len(report["versions"])
    note(name, writes, report["slowest"], {one: report[one] for one in ("retries", "l0_hits") if one in report})


def note(name: str, writes: int, slowest: float, more: dict[str, Any] | None = None) -> None:
    """Keeps figures for those who want to know; `slowest` is the longest call in seconds."""
    figures = {"kills": KILLS, "writes": writes, "longest_call_s": round(slowest, 2), "cpus": os.cpu_count(), **(more or {})}
    FIGURES.parent.mkdir(exist_ok=True)
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(known | {name: figures}, indent=1))
