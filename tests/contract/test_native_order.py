"""The order in which calls reach Python: each connection has its turn, however many calls another has waiting."""

import asyncio
import threading
from typing import Any

import grpc

from tests.support.engine_params import create, needs_native
from tests.support.raw import RawConnection, message

pytestmark = needs_native
CROWD = 500


async def test_no_crowd_on_one_connection_keeps_another_s_call_from_python() -> None:
    order: list[bytes] = []

    async def answer(request: bytes, context: Any) -> bytes:
        order.append(request)
        return b""

    server = create("native")
    server.add_registered_method_handlers("test.Order", {"Call": grpc.unary_unary_rpc_method_handler(answer)})
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    all_wait = threading.Event()

    async def waiting(count: int) -> None:
        while server.counters()["waiting"] < count:
            await asyncio.sleep(0.001)

    async def calls() -> list[int | None]:
        async with RawConnection.open(address) as crowd, RawConnection.open(address) as other:
            many = asyncio.create_task(crowd.burst("/test.Order/Call", [b"crowd"] * CROWD))
            await waiting(CROWD)
            one = asyncio.create_task(other.call("/test.Order/Call", message(b"other")))
            await waiting(CROWD + 1)
            all_wait.set()
            return [reply.status for reply in [*await many, await one]]

    client = asyncio.create_task(asyncio.to_thread(asyncio.run, calls()))
    await asyncio.sleep(0)
    try:
        assert all_wait.wait(9)  # the event loop stands still until then, for less time than a stuck one is waited for
        assert await client == [0] * (CROWD + 1)
    finally:
        await server.stop(0)
    assert len(order) == CROWD + 1
    assert order.index(b"other") <= 1
