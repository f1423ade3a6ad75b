"""Queries and alerts on a real stack: two sidecars, a relay and an injector, whose servers break one after the other."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.metrics import web
from cache_sidecar.relay.metrics import collect_redis_memory
from cache_sidecar.relay.redis_memory import RedisMemory
from cache_sidecar.tiers.redis.client import RedisClient
from tests.injector.reviews import review
from tests.injector.webhook import injector, make_certificate, ready
from tests.monitoring.watch import Watch, shorten_windows, watching
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Sidecar, in_process, process, serving, settings_for
from tests.support.proxy import Proxy
from tests.support.shop import Shop, new_id
from tests.support.stockroom import Stockroom
from tests.support.until import until
from tests.unit.test_monitoring import exprs, rules

DAY = 86400.0
MIB = 1 << 20
LIMIT = 512 << 20
PRODUCTS = 20
# More than the alert lets wait.
MANY = 1500


@dataclass
class Ground:
    """The stack, with what a test breaks."""

    folder: Path
    redis: Proxy
    store: Proxy
    database: str
    server: ValkeyServer
    shop: Shop
    stock: Stockroom
    config: dict[str, Any]
    relay: contextlib.AsyncExitStack
    webhook: contextlib.AsyncExitStack
    ids: list[str]
    watch: Watch
    reads_unknown: bool = False
    "Whether callers ask for products that nobody asked for before."
    wants_sold_out: bool = False
    "Whether callers reserve what is sold out."
    grows: bool = False
    "Whether something fills Redis."

    def use_memory(self, share: float) -> None:
        """Has the container of the second sidecar use a share of its limit."""
        (self.folder / "used").write_text(str(int(share * LIMIT)))

    async def sql(self, statement: str) -> None:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute(statement)  # type: ignore[arg-type]  # of this file

    async def call(self) -> None:
        """Calls on: reads, and now and then a write."""
        for number in range(10**9):
            id = new_id() if self.reads_unknown else self.ids[number % len(self.ids)]
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(5):
                    await self.shop.get(id)
                    if number % 10 == 0:
                        await self.shop.update(self.ids[0], "title", title=str(number))
                    if self.wants_sold_out:
                        await self.stock.reserve({self.ids[0]: 2})
            await asyncio.sleep(0.02)  # a rate, not a wait

    async def fill(self) -> None:
        """Fills Redis, while that is wanted: a MiB a second."""
        async with self.server.client() as client:
            for number in itertools.count():
                if self.grows:
                    await client.set(f"blob {number}", b"x" * MIB)
                await asyncio.sleep(1.0)  # a rate, not a wait

    async def limit_redis(self, maxmemory: int) -> None:
        """Sets how many bytes Redis may use; 0 for as many as there are."""
        async with self.server.client() as client:
            await client.execute_command("CONFIG", "SET", "maxmemory", maxmemory)

    async def used_by_redis(self) -> int:
        async with self.server.client() as client:
            return int((await client.info("memory"))["used_memory"])

    async def start_relay(self) -> None:
        await self.relay.enter_async_context(process("relay", self.folder, self.config))


@pytest.fixture
async def ground(
    programs: Path,
    processes: Processes,
    choose_ports: ChoosePorts,
    postgres: Postgres,
    database: str,
    namespace: str,
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Ground]:
    redis_port, port, first, relays, *ports = choose_ports(9)
    certificate = tmp_path / "certificate"
    certificate.mkdir()
    make_certificate(certificate, now=time.time(), lifetime=90 * DAY)
    (tmp_path / "limit").write_text(str(LIMIT))
    (tmp_path / "stat").write_text("inactive_file 0\n")
    files = (*(str(tmp_path / name) for name in ("limit", "used", "stat")), "inactive_file ")
    monkeypatch.setattr("cache_sidecar.core.container_memory.CGROUPS", (files,))
    (tmp_path / "policy.toml").write_text("")
    server = ValkeyServer(processes, processes.state.path / f"valkey-{redis_port}", redis_port)
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        redis = await stack.enter_async_context(Proxy(server.address))
        store = await stack.enter_async_context(Proxy(f"127.0.0.1:{postgres.port}"))
        shared = {
            "redis_nodes": redis.address,
            "redis_mode": "single",
            "postgres_catalog": f"{database.partition('@')[0]}@{store.address}/{database.rpartition('/')[2]}",
            "namespace": namespace,
            "engine": engine,
            "policy_file": str(tmp_path / "policy.toml"),
        }
        config = shared | {"listen_address": f"127.0.0.1:{port}", "web_address": f"127.0.0.1:{first}"}
        relay_config = shared | {"web_address": f"127.0.0.1:{relays}"}
        relay, webhook = [await stack.enter_async_context(contextlib.AsyncExitStack()) for _ in range(2)]
        await relay.enter_async_context(process("relay", tmp_path, relay_config))
        await stack.enter_async_context(process("serve", tmp_path, config))
        second = settings_for(redis.address, shared["postgres_catalog"], **{**_without(shared), "web_address": "127.0.0.1:0"})
        ground = Ground(
            tmp_path,
            redis,
            store,
            database,
            server,
            None,  # type: ignore[arg-type]  # below, as the other ones
            None,  # type: ignore[arg-type]
            relay_config,
            relay,
            webhook,
            [],
            None,  # type: ignore[arg-type]
        )
        ground.use_memory(0.5)
        sections: dict[str, dict[str, Any]] = {
            "": {"kubernetes_version": "1.34"},
            "api": {"ca_file": str(certificate / "ca.crt")},
            "certificates": {"refresh": 1},
        }
        beside = await stack.enter_async_context(in_process(second, relay=False))
        running = await webhook.enter_async_context(injector(certificate, ports[:2], **sections))
        await ready(running)
        await running.ask(review(), certificate / "ca.crt")
        await serving(f"127.0.0.1:{port}")
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        ground.shop, ground.stock = Shop(Sidecar("", channel)), Stockroom(channel)
        ground.ids = [(await ground.shop.create()).product_id for _ in range(PRODUCTS)]
        await ground.stock.set(ground.ids[0], 1)
        tasks = [asyncio.create_task(ground.call()), asyncio.create_task(ground.fill())]
        measured = await stack.enter_async_context(_measuring_redis(server, shared["postgres_catalog"]))
        targets = {
            "cache-sidecar": [f"127.0.0.1:{first}", beside.app.web_address],  # type: ignore[union-attr]  # it is in this process
            "cache-sidecar-relay": [f"127.0.0.1:{relays}", measured],
            "cache-sidecar-injector": [f"127.0.0.1:{ports[1]}"],
        }
        try:
            async with watching(programs, processes, tmp_path, ports[2:], targets) as ground.watch:
                yield ground
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _measuring_redis(server: ValkeyServer, postgres_uri: str) -> AsyncIterator[str]:
    """Serves a relay's metrics of Redis, measured twice a second: a forecast needs seconds here instead of an hour."""
    client = RedisClient(settings_for(server.address, postgres_uri, "measured", redis_mode="single"))
    memory = RedisMemory(client.cluster, enough=5.0, window=20.0)
    background = BackgroundTasks()
    background.poll(0.5, memory.look)
    try:
        async with web.serving("127.0.0.1:0", lambda: collect_redis_memory(memory)) as address:
            yield address
    finally:
        await background.stop()
        await client.close()


def _without(shared: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shared.items() if name not in {"redis_nodes", "postgres_catalog"}}


# Queries that find nothing while all is well, by what they contain.
QUIET = (
    "redis_memory_limit",
    "redis_memory_days_left",
    'code!="OK"',
    "call_errors",
    "injector_pods_without_sidecar",
    "injector_evictions",
    "injector_failures",
    "copy_lag",
)


@pytest.mark.timeout(1500)
async def test_every_query_finds_something_and_every_alert_comes_and_goes(ground: Ground) -> None:
    watch = ground.watch
    await _queries_find_something(watch)
    # The objectives' budgets burn while everything starts.
    await watch.ends(*(name for name in watch.told if "Burns" not in name))
    assert [name for name in watch.firing if "Burns" not in name] == []

    # The container of a sidecar is nearly full.
    ground.use_memory(0.95)
    await watch.fires("MemoryNearLimit")
    ground.use_memory(0.5)

    # A policy that is none.
    (ground.folder / "policy.toml").write_text("[product]\nl2_ttl = -1\n")
    await watch.fires("PolicyFileRefused")
    (ground.folder / "policy.toml").write_text("")

    # The injector's certificate has not been renewed.
    make_certificate(ground.folder / "certificate", now=time.time(), lifetime=DAY)
    await watch.fires("CertificateExpires")
    make_certificate(ground.folder / "certificate", now=time.time(), lifetime=90 * DAY)
    await watch.ends("MemoryNearLimit", "PolicyFileRefused", "CertificateExpires")

    await _stock_is_wrong(ground)
    await _redis_fills(ground)
    await watch.ends("OversellAttempts", "StockCheckViolated", "RedisMemoryFills", "RedisMemoryNearLimit")

    # Callers ask for what nobody has asked for.
    ground.reads_unknown = True
    await watch.fires("HitRatioCollapses")
    ground.reads_unknown = False
    await watch.ends("HitRatioCollapses")

    # Redis is slow.
    ground.redis.delay(1.0)
    await watch.fires("InvalidationsSlow")
    ground.redis.delay(0.0)
    await watch.ends("InvalidationsSlow")

    # Redis goes, and meanwhile a program changes many rows.
    ground.redis.cut()
    await ground.sql(
        "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) "
        f"SELECT 'many-' || n, 'many', 1, 'EUR' FROM generate_series(1, {MANY}) AS n"
    )
    await watch.fires("RedisNodeFails", "RepliesStale", "RelayMissing", "InvalidationsMissed", "FreshnessBurnsFast")
    await watch.fires("OutboxGrows", "OutboxOld")
    await ground.redis.heal()
    await watch.ends("RedisNodeFails", "RepliesStale", "RelayMissing", "InvalidationsMissed", "OutboxGrows", "OutboxOld")

    # PostgreSQL goes.
    ground.store.cut()
    await watch.fires("PostgresFails", "RelayLeadsNot", "AvailabilityBurnsFast")
    await ground.store.heal()
    await watch.ends("PostgresFails", "RelayLeadsNot", "RelayMissing")

    # The relay goes, and the injector.
    await ground.relay.aclose()
    await ground.webhook.aclose()
    await watch.fires("RelayMissing", "RelayLeadsNot", "InjectorDown")
    await ground.start_relay()
    await watch.ends("RelayMissing", "RelayLeadsNot", "RepliesStale")
    # Half an hour of the objectives' windows is a minute here.
    await watch.ends("AvailabilityBurnsFast", "FreshnessBurnsFast")
    print("seen to fire:", ", ".join(sorted(watch.told)))


async def _stock_is_wrong(ground: Ground) -> None:
    # Callers want what is sold out.
    ground.wants_sold_out = True
    await ground.watch.fires("OversellAttempts")
    ground.wants_sold_out = False

    # Somebody changes a row by hand, and only the table's CHECK keeps its numbers from going below nothing.
    held = await ground.stock.reserve({ground.ids[0]: 1})
    await ground.sql("UPDATE cache_sidecar.inventory SET reserved = 0 WHERE reserved > 0")
    with pytest.raises(grpc.aio.AioRpcError):
        await ground.stock.release(held.reservation_id)
    await ground.watch.fires("StockCheckViolated")
    await ground.sql("UPDATE cache_sidecar.inventory SET reserved = 1")
    await ground.stock.release(held.reservation_id)


async def _redis_fills(ground: Ground) -> None:
    await ground.limit_redis(4096 * MIB)
    ground.grows = True
    await ground.watch.fires("RedisMemoryFills")
    ground.grows = False
    await ground.limit_redis(int(await ground.used_by_redis() / 0.95))
    await ground.watch.fires("RedisMemoryNearLimit")
    await ground.limit_redis(0)


async def _queries_find_something(watch: Watch) -> None:
    """Runs every query of the dashboards and rules; each finds something sooner or later."""
    shown = [expr for expr in exprs() if not any(text in expr for text in QUIET)]
    for expr in exprs():
        await watch.query(shorten_windows(expr))
    alerting = {rule["expr"] for rule in rules() if "alert" in rule}

    async def empty() -> list[str]:
        return [expr for expr in shown if expr not in alerting and not await watch.query(shorten_windows(expr))]

    async def none_is_empty() -> bool:
        return not await empty()

    try:
        await until(none_is_empty)
    except AssertionError:
        assert await empty() == []
