"""What only the native engine does: hits that need no Python, and go on while it does something else."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import CacheMetadata
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.engine_params import needs_native
from tests.support.raw import RawConnection, RawReply, message
from tests.support.shop import L1, Open, Shop, refused
from tests.support.until import until

pytestmark = [needs_native, pytest.mark.parametrize("engine", ["native"], indirect=True, scope="package")]
SERVICE = "/cache_sidecar.v1.ProductService"
UNAVAILABLE = StatusCode.UNAVAILABLE.value[0]


def meanwhile(calls: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Holds the event loop of the sidecar up until a client in another thread has made its calls, and returns what they gave."""
    results: list[Any] = []
    client = threading.Thread(target=lambda: results.append(asyncio.run(calls())))
    client.start()
    client.join()
    return results[0]


def get(id: str) -> bytes:
    return message(pb.GetProductRequest(product_id=id).SerializeToString())


def cache_of(reply: RawReply, kind: Any = pb.GetProductResponse) -> CacheMetadata:
    assert reply.status == 0, reply
    found: CacheMetadata = kind.FromString(reply.body[5:]).cache
    return found


async def remembered(shop: Shop, count: int = 1) -> list[str]:
    """Returns ids that are in memory."""
    await until(shop.app.coherence.is_trusted)
    ids = [(await shop.create()).product_id for _ in range(count)]
    for id in ids:
        await until(lambda id=id: is_remembered(shop, id))
    return ids


async def is_remembered(shop: Shop, id: str) -> bool:
    await shop.get(id)
    return shop.remembers(id)


async def test_hits_go_on_and_the_rest_is_refused_while_python_does_something_else(shop: Shop) -> None:
    ids = await remembered(shop, 3)
    batch = message(pb.BatchGetProductsRequest(product_ids=ids).SerializeToString())

    async def calls() -> tuple[list[RawReply], list[RawReply]]:
        async with RawConnection.open(shop.address) as raw:
            hits = [await raw.call(f"{SERVICE}/GetProduct", get(id)) for id in ids]
            hits.append(await raw.call(f"{SERVICE}/BatchGetProducts", batch))
            # The first waits until it is known that Python is stuck, the others no more: also those that grpc.aio would serve.
            missed = [await raw.call(f"{SERVICE}/GetProduct", get("nobody")) for _ in range(50)]
            missed.append(await raw.call("/grpc.health.v1.Health/Check", message(b"")))
            return hits, missed

    hits, missed = meanwhile(calls)
    assert [cache_of(hit).source for hit in hits[:3]] == [L1] * 3
    assert cache_of(hits[3], pb.BatchGetProductsResponse).source == L1
    assert {reply.status for reply in missed} == {UNAVAILABLE}
    await until(lambda: answers(shop))


async def answers(shop: Shop) -> bool:
    """Says whether Python takes calls again."""
    return (await refused(shop.get("nobody"))).code is StatusCode.NOT_FOUND


async def test_trust_that_ended_by_itself_marks_hits_until_python_says_what_it_concerns(shop: Shop) -> None:
    (id,) = await remembered(shop)
    freshness_lease = inside.freshness_lease_of(shop.app)

    class Holder:
        late = -1.0

        def on_expired(self, late: float) -> None:
            self.late = late

    holder = Holder()
    freshness_lease.extend(holder, freshness_lease.clock() - 0.5)

    async def calls() -> RawReply:
        async with RawConnection.open(shop.address) as raw:
            return await raw.call(f"{SERVICE}/GetProduct", get(id))

    assert cache_of(meanwhile(calls)).stale
    await until(lambda: holder.late >= 0.5)
    await until(lambda: is_from_memory(shop, id))


async def is_from_memory(shop: Shop, id: str) -> bool:
    cache = (await shop.get(id)).cache
    return (cache.source, cache.stale) == (L1, False)


async def test_a_switch_has_python_answer_the_hits(shop: Shop) -> None:
    (id,) = await remembered(shop)
    memory = inside.l1_of(inside.dataset(shop.app, "product"))

    async def without_python() -> bool:
        before, python = memory.stats().hits, inside.dataset(shop.app, "product").l1_hits
        assert await shop.source(id) == L1
        found = memory.stats().hits - before, inside.dataset(shop.app, "product").l1_hits - python
        assert found in {(1, 0), (0, 1)}
        return found == (1, 0)

    assert await without_python()
    for is_on in (False, True):
        policy = admin.DatasetPolicy(dataset="product", native_hits=is_on)
        await shop.admin.UpdatePolicy(admin.UpdatePolicyRequest(policy=policy))
        assert await without_python() is is_on


async def test_what_was_served_without_python_is_refreshed_in_time_and_sampled(open_shop: Open, tmp_path: Path) -> None:
    file, clock = tmp_path / "policy.toml", ManualClock()
    file.write_text("[product]\nl1_soft_ttl = 100\nl1_hard_ttl = 200\njitter = 0\ninspect_every = 1\n")
    async with open_shop(clock=clock, policy_file=str(file)) as shop:
        (id,) = await remembered(shop)
        memory = inside.l1_of(inside.dataset(shop.app, "product"))
        fills = memory.stats().fills

        async def read_until(condition: Callable[[], Any]) -> None:
            before = memory.stats().hits
            await shop.get(id)
            await until(condition)
            assert memory.stats().hits == before + 1, "without Python"

        clock.advance(99)
        await read_until(lambda: inside.served_of(shop.app)["product"].inspector.counts.fresh)
        assert memory.stats().fills == fills, "it was not due"
        clock.advance(1)
        await read_until(lambda: memory.stats().fills > fills)
