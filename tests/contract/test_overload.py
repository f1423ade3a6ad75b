"""More calls than can be answered: which are refused, and that they cost no work. Nothing here asserts how long anything took.

In which order calls are taken and refused is tested with a clock of the test's own in `native/src/line.rs`.
"""

import asyncio
import base64
from collections import Counter
from functools import partial
from typing import Any, Self

import grpc
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from cache_sidecar.server.engine import Refusals
from cache_sidecar.server.limiter import Priority
from tests.support.databases import locked
from tests.support.engine_params import create, needs_native
from tests.support.gates import Gate
from tests.support.raw import RawConnection, RawReply, message
from tests.support.shop import L1, Open, new_id, refused
from tests.support.until import until

# Calls of a service that may be in progress here, and that may wait in a line that stands (`LEAST_LINE`).
MOST, LEAST_LINE = 3, 128
OK, EXHAUSTED, LATE, UNIMPLEMENTED = (
    getattr(grpc.StatusCode, name).value[0] for name in ("OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNIMPLEMENTED")
)


def details(reply: RawReply) -> status_pb2.Status:
    """Returns the google.rpc.Status of a refusal."""
    value = reply.headers[b"grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(value + b"=" * (-len(value) % 4)))
    assert (status.code, status.message) == (reply.status, reply.message)
    return status


def detail(reply: RawReply, kind: Any) -> Any:
    """Returns one of its details."""
    found = kind()
    assert any(packed.Unpack(found) for packed in details(reply).details)
    return found


class Server:
    """The native engine with two services whose calls a gate holds."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.seen: Counter[bytes] = Counter()
        self.reported: Counter[str] = Counter()
        self.native = create("native", max_dataset_calls=MOST, max_concurrent_calls=100)
        for service, priority in (("test.Vital", Priority.VITAL), ("test.Low", Priority.LOW)):
            self.native.prioritize(service, priority)
            self.native.follow_refusals(f"/{service}/Call", partial(self._report, service))
            self.native.add_registered_method_handlers(service, {"Call": grpc.unary_unary_rpc_method_handler(self._answer)})
        self.address = f"127.0.0.1:{self.native.add_insecure_port('127.0.0.1:0')}"

    def _report(self, service: str, count: int) -> None:
        self.reported[service] += count

    async def _answer(self, request: bytes, _context: Any) -> bytes:
        self.seen[request] += 1
        await self.gate.passed()
        return request

    async def __aenter__(self) -> Self:
        await self.native.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.open()
        await self.native.stop(0)

    def count(self, name: str) -> int:
        return int(self.native.counters()[name])

    async def stands(self, raw: RawConnection, service: str) -> "asyncio.Task[list[RawReply]]":
        """Has as many calls in progress as may be, and others wait until they are refused; returns all of them."""
        before = self.count("overloaded")
        calls = asyncio.create_task(raw.burst(f"/{service}/Call", [b"first"] * (MOST + 5)))
        await until(lambda: self.count("overloaded") == before + 5)
        return calls


@needs_native
async def test_refusals_are_reported_by_method() -> None:
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        calls = [await server.stands(raw, "test.Vital")]
        # While calls are refused, those of a busy connection are before HTTP/2 sees them.
        crowd = asyncio.create_task(raw.burst("/test.Vital/Call", [b"crowd"] * 500))
        await until(lambda: server.reported == {"test.Vital": 5 + 500})
        server.gate.open()
        await asyncio.gather(*calls, crowd)
        assert server.reported == {"test.Vital": server.count("overloaded")}
        # Metrics have them since the start, however often they were reported.
        assert server.native.refusals() == {"/test.Vital/Call": Refusals(server.count("overloaded"), 0, 0)}


@needs_native
async def test_calls_that_wait_in_vain_are_refused_and_never_seen() -> None:
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        first = await server.stands(raw, "test.Vital")
        crowd = asyncio.create_task(raw.burst("/test.Vital/Call", [b"crowd"] * 1500))
        await until(lambda: server.count("overloaded") >= 5 + 1500 - LEAST_LINE)
        assert server.count("waiting") <= LEAST_LINE
        await until(lambda: server.count("overloaded") == 5 + 1500)
        assert server.count("waiting") == 0
        server.gate.open()
        replies = await first
        assert Counter(reply.status for reply in replies) == {OK: MOST, EXHAUSTED: 5}
        refusals = [reply for reply in [*replies, *await crowd] if reply.status == EXHAUSTED]
        assert {detail(reply, ErrorInfo).reason for reply in refusals} == {"OVERLOADED"}
        delays = {detail(reply, RetryInfo).retry_delay.ToNanoseconds() / 1e9 for reply in refusals}
        assert len(delays) == 8, "they don't all come again at once"
        assert all(0.05 <= delay <= 0.15 for delay in delays)
        assert server.seen == {b"first": MOST}, "Python has not seen one that was refused"
        again = await raw.burst("/test.Vital/Call", [b"again"] * MOST)
        assert [reply.status for reply in again] == [OK] * MOST


@needs_native
async def test_a_connection_whose_calls_were_refused_goes_on() -> None:
    """Most are refused before HTTP/2 on a machine that is not too slow; `connection.rs` has a test that counts them."""
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        first = await server.stands(raw, "test.Vital")
        refusals: list[RawReply] = []
        for _ in range(3):
            refusals += await raw.burst("/test.Vital/Call", [b"crowd"] * 1500)
        assert server.count("overloaded") == 5 + len(refusals)
        assert {(reply.status, detail(reply, ErrorInfo).reason) for reply in refusals} == {(EXHAUSTED, "OVERLOADED")}
        assert len({detail(reply, RetryInfo).retry_delay.ToNanoseconds() for reply in refusals}) == 8
        assert {len(reply.headers) for reply in refusals} == {5}
        # HTTP/2 may not have heard of the last one, and would end the connection for this.
        raw.cancel(raw.last_stream)
        raw.allow(raw.last_stream, 1000)
        server.gate.open()
        assert Counter(reply.status for reply in await first) == {OK: MOST, EXHAUSTED: 5}
        again = await raw.burst("/test.Vital/Call", [b"again"] * MOST)
        assert [(reply.status, reply.body) for reply in again] == [(OK, message(b"again"))] * MOST
        assert server.seen == {b"first": MOST, b"again": MOST}


@needs_native
async def test_one_service_that_stands_does_not_hold_others_up() -> None:
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        low = await server.stands(raw, "test.Low")
        vital = asyncio.create_task(raw.call("/test.Vital/Call", message(b"vital")))
        await until(lambda: server.seen[b"vital"] == 1)
        server.gate.open()
        assert (await vital).status == OK
        assert Counter(reply.status for reply in await low) == {OK: MOST, EXHAUSTED: 5}


@needs_native
async def test_a_deadline_that_passes_in_the_line_is_answered_without_python() -> None:
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        first = asyncio.create_task(raw.burst("/test.Vital/Call", [b"first"] * MOST))
        await until(lambda: server.seen[b"first"] == MOST)
        # With its body at once: a deadline that passes before the body has come is another case.
        (late,) = await raw.burst("/test.Vital/Call", [b"late"], metadata=[(b"grpc-timeout", b"20m")])
        assert (late.status, detail(late, ErrorInfo).reason) == (LATE, "DEADLINE_EXCEEDED")
        server.gate.open()
        assert [reply.status for reply in await first] == [OK] * MOST
        assert server.seen == {b"first": MOST}
        assert server.count("late") == 1


@needs_native
async def test_whoever_gives_up_in_the_line_is_not_seen() -> None:
    async with Server() as server, RawConnection.open(server.address) as raw:
        server.gate.close()
        first = asyncio.create_task(raw.burst("/test.Vital/Call", [b"first"] * MOST))
        await until(lambda: server.seen[b"first"] == MOST)
        stream = await raw.begin("/test.Vital/Call")
        await raw.send(stream, message(b"gone"), end=True)
        await until(lambda: server.count("waiting") + server.count("overloaded") == 1)
        raw.cancel(stream)
        # What comes on a connection is taken in order: with this answered, the sidecar knows.
        assert (await raw.call("/test.Nothing/Call", message(b""))).status == UNIMPLEMENTED
        server.gate.open()
        assert [reply.status for reply in await first] == [OK] * MOST
        await until(lambda: server.count("waiting") == 0)
        assert server.seen[b"gone"] == 0
        assert server.count("resets") + server.count("overloaded") >= 1


async def test_hits_are_answered_while_calls_are_refused(open_shop: Open, database: str, engine: str) -> None:
    async with open_shop(max_dataset_calls=4, postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        assert await shop.source(id) is not None
        await until(lambda: shop.remembers(id))
        async with locked(database):
            flood = [asyncio.ensure_future(refused(shop.get(new_id()))) for _ in range(40)]
            await until(lambda: sum(call.done() for call in flood) >= 36)
            assert {(await call).reason for call in flood if call.done()} == {"OVERLOADED"}
            assert [await shop.source(id) for _ in range(20)] == [L1] * 20
        assert {(await call).reason for call in flood} == {"OVERLOADED", "NOT_FOUND"}
