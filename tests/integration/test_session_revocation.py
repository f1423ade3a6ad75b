"""Sessions that are ended while Redis does not answer, or while others read them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from grpc.aio import AioRpcError
from redis.asyncio import Redis

from cache_sidecar.config.settings import Settings
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.services.session import hash_of
from cache_sidecar.tiers.ports import PARTITIONS, Row
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1 import session_service_pb2 as pb
from tests.support import inside
from tests.support.customers import L2, STORE, Customer, new_request, new_user
from tests.support.gates import Gate
from tests.support.launch import in_process, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import Refusal, refused
from tests.support.until import until


@pytest.fixture
async def proxy(valkey: ValkeyServer) -> AsyncIterator[Proxy]:
    """The way of the first sidecar to Redis."""
    async with Proxy(valkey.address) as proxy:
        yield proxy


@pytest.fixture
async def cut_off(proxy: Proxy, database: str, namespace: str) -> AsyncIterator[Customer]:
    """A sidecar whose way to Redis a test can block."""
    async with in_process(_settings(proxy.address, database, namespace)) as sidecar:
        yield Customer(sidecar)


@pytest.fixture
async def other(valkey: ValkeyServer, database: str, namespace: str) -> AsyncIterator[Customer]:
    """A sidecar whose way is free."""
    async with in_process(_settings(valkey.address, database, namespace)) as sidecar:
        yield Customer(sidecar)


def _settings(redis: str, database: str, namespace: str) -> Settings:
    return settings_for(redis, database, namespace, redis_mode="single", redis_timeout=1.0)


async def accepts(customer: Customer, session_id: str) -> bool:
    """Whether a sidecar accepts a session."""
    try:
        await customer.session(session_id)
    except Exception:  # noqa: BLE001  # whatever it is, `refused` says what it has to be
        assert (await refused(customer.session(session_id))).reason == "NOT_FOUND"
        return False
    return True


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_no_log_out_is_claimed_that_redis_did_not_hear_of(
    cut_off: Customer, other: Customer, proxy: Proxy, fault: str
) -> None:
    user, request_id = new_user(), new_request()
    ids = [await other.create(user) for _ in range(3)]
    proxy.cut() if fault == "cut" else proxy.stall()
    refusal: Refusal = await refused(cut_off.log_out_everywhere(user, request_id))
    assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "REVOCATION_PENDING")
    assert refusal.retry_after is not None
    assert not any([await accepts(cut_off, id) for id in ids]), "on this sidecar they are over all the same"
    if fault == "cut":
        assert all([await accepts(other, id) for id in ids]), "that is what UNAVAILABLE said"
    assert (await refused(cut_off.log_out_everywhere(user))).reason == "REVOCATION_PENDING", "a repeat claims no more"
    await proxy.heal()
    assert await _repeated(cut_off, user, request_id) == 3
    assert not any([await accepts(other, id) for id in ids])


@pytest.mark.parametrize("same_request", [True, False])
async def test_a_log_out_is_finished_by_a_repeat_elsewhere(
    cut_off: Customer, other: Customer, proxy: Proxy, same_request: bool
) -> None:
    user, request_id = new_user(), new_request()
    ids = [await other.create(user) for _ in range(3)]
    rotated = (await other.sessions.RotateSession(pb.RotateSessionRequest(session_id=ids[0]))).session_id
    proxy.cut()
    await refused(cut_off.log_out_everywhere(user, request_id))
    assert await other.log_out_everywhere(user, request_id if same_request else "") == (3 if same_request else 0)
    assert not any([await accepts(other, id) for id in (*ids, rotated)])


async def _repeated(customer: Customer, user: str, request_id: str) -> int:
    """Repeats until Redis is used again: it is left alone for a moment after it did not answer."""

    async def attempt() -> list[int]:
        try:
            return [await customer.log_out_everywhere(user, request_id)]
        except AioRpcError:
            return []

    (deleted,) = await until(attempt)
    return int(deleted)


async def test_an_old_id_that_redis_did_not_hear_the_end_of_is_ended_with_the_user(
    cut_off: Customer, other: Customer, proxy: Proxy
) -> None:
    user = new_user()
    old = await other.create(user)
    proxy.cut()
    reply = await cut_off.sessions.RotateSession(pb.RotateSessionRequest(session_id=old))
    assert reply.revocation_pending
    assert await accepts(other, old), "that is what revocation_pending said"
    assert not await accepts(cut_off, old)
    assert await other.log_out_everywhere(user) == 1
    assert not await accepts(other, old)
    assert not await accepts(other, reply.session_id)


async def test_a_deletion_says_that_redis_did_not_hear_of_it(cut_off: Customer, other: Customer, proxy: Proxy) -> None:
    id = await other.create()
    proxy.cut()
    reply = await cut_off.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id))
    assert reply.revocation_pending
    assert not await accepts(cut_off, id)


async def test_a_repeated_deletion_says_what_is_so_now(cut_off: Customer, other: Customer, proxy: Proxy) -> None:
    request = pb.DeleteSessionRequest(session_id=await other.create(), request_id=new_request())

    async def is_pending() -> bool:
        return bool((await cut_off.sessions.DeleteSession(request)).revocation_pending)

    proxy.cut()
    assert await is_pending()
    assert await is_pending(), "never less than is so"
    await proxy.heal()

    async def is_told() -> bool:
        return not await is_pending()

    await until(is_told)
    assert not await accepts(other, request.session_id)


async def test_an_end_that_only_a_node_took_that_nobody_is_known_to_read_is_pending(other: Customer) -> None:
    """An old primary takes what it is told, too."""
    id, app = await other.create(), other.sidecar.app
    assert app is not None
    request = pb.DeleteSessionRequest(session_id=id, request_id=new_request())
    inside.quarantines_of(app)["user"].on_feed_lost(range(PARTITIONS))
    assert (await other.sessions.DeleteSession(request)).revocation_pending
    assert (await other.sessions.DeleteSession(request)).revocation_pending


async def test_sessions_go_on_without_redis(cut_off: Customer, proxy: Proxy) -> None:
    proxy.cut()
    id = await cut_off.create("ann", a="1")
    reply = await cut_off.session(id)
    assert (reply.cache.source, reply.session.user_id) == (STORE, "ann")
    await cut_off.touch(id)
    await cut_off.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id))
    assert not await accepts(cut_off, id)


class _HeldLoad:
    """A load that reads, and then waits at a gate."""

    def __init__(self, customer: Customer, dataset: str) -> None:
        assert customer.sidecar.app is not None
        self.dataset = inside.datasets_of(customer.sidecar.app)[dataset]
        self._load = self.dataset.loader._load
        self.gate = Gate()
        self.dataset.loader._load = self  # type: ignore[assignment]

    async def __call__(self, ids: Sequence[str]) -> Mapping[str, Row]:
        rows = await self._load(ids)
        await self.gate.passed()
        return rows

    async def filled(self) -> None:
        """Returns when what was loaded was offered to Redis."""
        await asyncio.gather(*self.dataset.loader.background.running)


@contextlib.asynccontextmanager
async def _held_load(customer: Customer, dataset: str) -> AsyncIterator[_HeldLoad]:
    """Holds the loads of a dataset until the gate is opened, at the end at the latest."""
    load = _HeldLoad(customer, dataset)
    load.gate.close()
    try:
        yield load
    finally:
        load.gate.open()


@pytest.mark.parametrize("then", ["lost", "leased to another"])
async def test_a_session_read_before_its_end_is_not_filled_in_when_redis_lost_the_end(
    other: Customer, cut_off: Customer, valkey: ValkeyServer, namespace: str, then: str
) -> None:
    user = new_user()
    id = await other.create(user)
    key = KeyNames(namespace).key("session", hash_of(id))
    async with Redis.from_url(f"redis://{valkey.address}") as redis, _held_load(cut_off, "session") as load:
        await redis.delete(key)
        reading = asyncio.ensure_future(cut_off.session(id))
        await load.gate.reached()
        assert await other.log_out_everywhere(user) == 1
        await redis.delete(key)
        if then == "leased to another":
            await redis.set(key, codec.lease(b"0" * 16))
        load.gate.open()
        await reading
        await load.filled()
    for customer in (other, cut_off):
        assert not await accepts(customer, id)


async def test_who_asks_after_a_log_out_does_not_share_what_was_read_before(
    other: Customer, cut_off: Customer, valkey: ValkeyServer, namespace: str
) -> None:
    user = new_user()
    id = await other.create(user)
    await other.forget("session")
    async with _held_load(cut_off, "session") as load:
        load.dataset.changed = lambda *_: None  # type: ignore[method-assign]  # the message about the end is on its way
        reading = asyncio.ensure_future(cut_off.session(id))
        await load.gate.reached()
        assert await other.log_out_everywhere(user) == 1
        async with Redis.from_url(f"redis://{valkey.address}") as redis:
            await redis.delete(KeyNames(namespace).key("session", hash_of(id)))
        late = asyncio.ensure_future(accepts(cut_off, id))
        await until(lambda: load.gate.waiting == 2 or late.done())
        load.gate.open()
        assert not await late
        await reading
        await load.filled()
    for customer in (other, cut_off):
        assert not await accepts(customer, id)


async def test_readers_that_share_a_lease_fill_the_session_in(
    other: Customer, cut_off: Customer, valkey: ValkeyServer, namespace: str
) -> None:
    id = await other.create()
    async with Redis.from_url(f"redis://{valkey.address}") as redis:
        await redis.delete(KeyNames(namespace).key("session", hash_of(id)))
    async with _held_load(other, "session") as first, _held_load(cut_off, "session") as second:
        reading = [asyncio.ensure_future(customer.session(id)) for customer in (other, cut_off)]
        for load in (first, second):
            await load.gate.reached()
        for load in (second, first):
            load.gate.open()
        assert [(await reply).cache.source for reply in reading] == [STORE, STORE]
        for load in (first, second):
            await load.filled()
    assert (await other.session(id)).cache.source == L2
