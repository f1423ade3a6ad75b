"""Every way in which Redis can be reached but not used, before the start and while running.

A sidecar updates a product while Redis refuses; another one has the old title in memory. Within the staleness bound it has to say
the new title, or that its reply is stale; the log and GetStats name the node, and say in Redis' own words what is refused.
"""

import asyncio
import contextlib
import itertools
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.relay import process as relay
from cache_sidecar.tiers.ports import partition_of
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from tests.support import inside
from tests.support.acl import PASSWORD, rules
from tests.support.dataset_case import say
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.shop import L1, STORE, Shop
from tests.support.until import until

# Seconds: the staleness bound of these tests, in their policy file.
BOUND = 1.0
USER = "shop"
Log = list[MutableMapping[str, Any]]


class Broken:
    """A Redis server of the test's own, and what else a way to break it needs."""

    def __init__(self, server: ValkeyServer, other: ValkeyServer, folder: Path) -> None:
        self.server = server
        self.other = other
        "Another server, empty."
        self.address = server.address
        "Where the sidecars reach it."
        self.folder = folder
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self, *command: Any) -> None:
        """Has the server do something, as its administrator."""
        async with self.server.client() as client:
            await client.execute_command(*command)

    async def acl(self, *rules: str) -> None:
        """Changes what the sidecars' user may do."""
        await self.run("ACL", "SETUSER", USER, *rules)

    async def config(self, *values: str) -> None:
        """Sets configuration."""
        await self.run("CONFIG", "SET", *values)


Do = Callable[[Broken], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    """A way to break it, and to mend it."""

    begin: Do
    end: Do
    words: str
    "A part of what Redis says."
    options: dict[str, str] = field(default_factory=dict)
    "Configuration of the server."
    is_heard: bool = True
    "Whether a sidecar that is started then hears what other sidecars, which Redis does not refuse, change."


def _acl(*taken: str, words: str, is_heard: bool = True) -> Way:
    async def begin(redis: Broken) -> None:
        await redis.acl(*taken)

    async def end(redis: Broken) -> None:
        await redis.acl("reset", *rules("cs"))

    return Way(begin, end, words, is_heard=is_heard)


def _config(words: str, *, begin: tuple[str, ...], end: tuple[str, ...]) -> Way:
    async def set_(redis: Broken) -> None:
        await redis.config(*begin)

    async def reset(redis: Broken) -> None:
        await redis.config(*end)

    return Way(set_, reset, words)


async def _no_script_loaded(redis: Broken) -> None:
    await redis.acl("-script|load")
    await redis.run("SCRIPT", "FLUSH")


async def _mend_acl(redis: Broken) -> None:
    await redis.acl("reset", *rules("cs"))


async def _follow_other(redis: Broken) -> None:
    await redis.run("REPLICAOF", "127.0.0.1", redis.other.port)
    await until(lambda: _is_linked(redis))


async def _is_linked(redis: Broken) -> bool:
    async with redis.server.client() as client:
        info: Any = await client.info("replication")
    return bool(info.get("master_link_status") == "up")


async def _follow_nobody(redis: Broken) -> None:
    await redis.run("REPLICAOF", "NO", "ONE")


async def _follow_a_dead_one(redis: Broken) -> None:
    await redis.config("replica-serve-stale-data", "no")
    await redis.run("REPLICAOF", "127.0.0.1", 1)


async def _save_in_vain(redis: Broken) -> None:
    gone = redis.folder / "gone"
    gone.mkdir(mode=0o777)
    await redis.config("dir", str(gone), "save", "3600 1000000")
    shutil.rmtree(gone)
    await redis.run("BGSAVE")
    await until(lambda: _last_save(redis, "err"))


async def _save_at_last(redis: Broken) -> None:
    await redis.config("dir", str(redis.server.directory))
    await redis.run("BGSAVE")
    await until(lambda: _last_save(redis, "ok"))
    await redis.config("save", "")


async def _last_save(redis: Broken, status: str) -> bool:
    async with redis.server.client() as client:
        info: Any = await client.info("persistence")
    return bool(info["rdb_last_bgsave_status"] == status)


async def _run_for_ever(redis: Broken) -> None:
    await redis.config("busy-reply-threshold", "1")

    async def run() -> None:
        async with Redis(port=redis.server.port, socket_timeout=None) as client:
            with contextlib.suppress(RedisError):
                await client.eval("while true do end", 0)

    redis.tasks.append(asyncio.create_task(run()))


async def _end_script(redis: Broken) -> None:
    await redis.run("SCRIPT", "KILL")
    await asyncio.gather(*redis.tasks)


async def _change_password(redis: Broken) -> None:
    await redis.acl("resetpass", ">another")
    await redis.run("CLIENT", "KILL", "USER", USER)


async def _is_cluster_ok(redis: Broken) -> bool:
    async with redis.server.client() as client:
        return "cluster_state:ok" in await client.execute_command("CLUSTER", "INFO")


def _own_address() -> str:
    """Returns an address of this machine that is not the loopback interface's."""
    found = socket.gethostbyname(socket.gethostname())
    if found.startswith("127."):
        pytest.skip("this machine has no other address than the loopback interface's")
    return found


async def _load(redis: Broken) -> None:
    await redis.run("DEBUG", "POPULATE", 100_000)
    await redis.config("key-load-delay", "1000")

    async def reload() -> None:
        async with Redis(port=redis.server.port, socket_timeout=None) as client:
            await client.execute_command("DEBUG", "RELOAD")

    redis.tasks.append(asyncio.create_task(reload()))
    await until(lambda: _is_loading(redis))


async def _is_loading(redis: Broken) -> bool:
    async with redis.server.client() as client:
        info: Any = await client.info("persistence")
    return bool(info["loading"])


async def _loaded(redis: Broken) -> None:
    await redis.config("key-load-delay", "0")
    await asyncio.gather(*redis.tasks)


def _renamed(command: str) -> Way:
    async def begin(redis: Broken) -> None:
        """Nothing: it was started so."""

    async def end(redis: Broken) -> None:
        inside.set_options(redis.server, {})
        await redis.server.restart()
        await redis.acl("reset", *rules("cs"))

    return Way(begin, end, f"unknown command '{command}'", {"rename-command": f'{command} ""'})


async def _lose_a_slot(redis: Broken) -> None:
    await redis.run("CLUSTER", "DELSLOTS", 0)


async def _find_it(redis: Broken) -> None:
    await redis.run("CLUSTER", "ADDSLOTS", 0)
    await until(lambda: _is_cluster_ok(redis))


async def _protect(redis: Broken) -> None:
    await redis.config("protected-mode", "yes")
    await redis.run("CLIENT", "KILL", "USER", USER)


async def _unprotect(redis: Broken) -> None:
    await redis.config("protected-mode", "no")


async def _hang_writes(redis: Broken) -> None:
    await redis.run("CLIENT", "PAUSE", 600_000, "WRITE")


async def _let_writes_go_on(redis: Broken) -> None:
    await redis.run("CLIENT", "UNPAUSE")


WAYS: dict[str, Way] = {
    "no evalsha": _acl("-evalsha", words="NOPERM"),
    "no incr": _acl("-incr", words="incr"),
    "no spublish": _acl("-spublish", words="spublish"),
    "no set": _acl("-set", words="set"),
    "no ssubscribe": _acl("-ssubscribe", words="NOPERM", is_heard=False),
    "no keys": _acl("resetkeys", "~other:*", words="NOPERM", is_heard=False),
    "no channels": _acl("resetchannels", words="channel", is_heard=False),
    "no scripts": Way(_no_script_loaded, _mend_acl, "script|load"),
    "another password": Way(_change_password, _mend_acl, "WRONGPASS", is_heard=False),
    # What a replica says is no comfort: it may be behind its primary.
    "a replica": Way(_follow_other, _follow_nobody, "READONLY", is_heard=False),
    "a replica without a primary": Way(_follow_a_dead_one, _follow_nobody, "MASTERDOWN", is_heard=False),
    "full": _config("OOM", begin=("maxmemory", "1"), end=("maxmemory", "0")),
    "not saved": Way(_save_in_vain, _save_at_last, "MISCONF", {"enable-protected-configs": "yes"}),
    "no replicas": _config("NOREPLICAS", begin=("min-replicas-to-write", "1"), end=("min-replicas-to-write", "0")),
    "loading": Way(
        _load,
        _loaded,
        "LOADING",
        {"enable-debug-command": "yes", "loading-process-events-interval-bytes": "1024"},
        is_heard=False,
    ),
    "a cluster without a slot": Way(_lose_a_slot, _find_it, "CLUSTERDOWN", {"cluster-enabled": "yes"}, is_heard=False),
    "protected": Way(_protect, _unprotect, "protected mode", {"bind": "0.0.0.0", "protected-mode": "no"}, is_heard=False),
    "EVALSHA renamed": _renamed("EVALSHA"),
    "SCRIPT renamed": _renamed("SCRIPT"),
    "busy": Way(_run_for_ever, _end_script, "BUSY", is_heard=False),
    "writes hang": Way(_hang_writes, _let_writes_go_on, "it answers reads, and no write within"),
}


class Region:
    """Two sidecars and a relay, in this process, on a Redis that breaks."""

    def __init__(self, redis: Broken, database: str, policy: Path, **more: Any) -> None:
        self.redis = redis
        access = {"redis_username": USER, "redis_password": PASSWORD}
        self.settings = settings_for(
            redis.address, database, "cs", policy_file=str(policy), **access | {"redis_timeout": 1.0} | more
        )
        self.first: Shop
        self.second: Shop

    @contextlib.asynccontextmanager
    async def running(self, *, trusted: bool) -> AsyncIterator["Region"]:
        """Runs it."""
        stop = asyncio.Event()
        relaying = asyncio.create_task(relay.run(self.settings, stop))
        try:
            async with (
                in_process(self.settings, trusted=trusted, relay=False) as first,
                in_process(self.settings, trusted=trusted, relay=False) as second,
            ):
                self.first, self.second = Shop(first), Shop(second)
                yield self
        finally:
            stop.set()
            await asyncio.wait({relaying}, timeout=20)
            await cancel_and_wait(relaying)

    async def shows(self, id: str, title: str) -> tuple[bool, bool]:
        """Returns whether the second sidecar says a title, and whether it says that this may be out of date."""
        reply = await self.second.get(id)
        return reply.product.title == title, reply.cache.stale

    async def is_in_memory(self, id: str) -> bool:
        reply = await self.second.get(id)
        return bool(reply.cache.source == L1 and not reply.cache.stale)

    async def is_read_once(self, id: str) -> bool:
        """Whether the second sidecar keeps it in memory from now on."""
        reply = await self.second.get(id)
        return bool(reply.cache.source == L1 or reply.cache.stale)

    async def is_right(self, id: str, title: str) -> bool:
        """Whether it says the title, or that it may not be."""
        return any(await self.shows(id, title))

    async def is_well(self, id: str, title: str) -> bool:
        reply = await self.second.get(id)
        return bool(reply.product.title == title and not reply.cache.stale and reply.cache.source == L1)

    async def keeps_its_bound(self, id: str, title: str) -> None:
        """Returns when the second sidecar says a title, or stale; and goes on doing so."""
        await until(lambda: self.is_right(id, title))
        for _ in range(10):
            assert await self.is_right(id, title)
            await asyncio.sleep(0.05)

    async def degradations(self, shop: Shop) -> list[Any]:
        return list((await shop.admin.GetStats(GetStatsRequest())).degradations)

    async def names(self, words: str) -> None:
        """Returns when GetStats of both sidecars says what is refused, where, and since when."""
        for shop in (self.first, self.second):
            found: list[Any] = []

            async def is_named(shop: Shop = shop, found: list[Any] = found) -> bool:
                found[:] = await self.degradations(shop)
                here = [one for one in found if one.which == self.redis.address]
                return any(words in one.reason and one.since_time.seconds for one in here)

            try:
                await until(is_named)
            except AssertionError:
                raise AssertionError(f"{words!r} is not in {found}") from None

    async def is_all_well(self) -> bool:
        return not [*await self.degradations(self.first), *await self.degradations(self.second)]


@contextlib.asynccontextmanager
async def broken(way: Way, processes: Processes, choose_ports: ChoosePorts, folder: Path) -> AsyncIterator[Broken]:
    """Runs the server that a way needs."""
    servers = [
        ValkeyServer(processes, processes.state.path / f"valkey-{port}", port, options=way.options) for port in choose_ports(2)
    ]
    await asyncio.gather(*(server.start() for server in servers))
    folder.chmod(0o777)
    redis = Broken(*servers, folder)
    if "bind" in way.options:
        redis.address = f"{_own_address()}:{servers[0].port}"
    if "cluster-enabled" in way.options:
        await redis.run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: _is_cluster_ok(redis))
    await redis.acl("reset", *rules("cs"))
    try:
        yield redis
    finally:
        for server in servers:
            server.kill()  # one that is busy does not end by itself
            await server.stop()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text("".join(f"[{name}]\nstaleness_bound = {BOUND}\n" for name in ("product", "session", "cart", "inventory")))
    return file


def warnings(log: Log, words: str) -> list[MutableMapping[str, Any]]:
    return [line for line in log if line["log_level"] == "warning" and words in str(line.get("reason", ""))]


# Subscriptions that are there are not asked for again, and commands are renamed by a restart.
NOT_WHILE_RUNNING = {"no ssubscribe", "EVALSHA renamed", "SCRIPT renamed"}
# A server that does not have our scripts yet takes every call of one for a write: then it hangs with everything.
NOT_BEFORE = {"writes hang"}


@pytest.mark.parametrize("name", [name for name in WAYS if name not in NOT_WHILE_RUNNING])
async def test_while_running(
    name: str, processes: Processes, choose_ports: ChoosePorts, database: str, policy: Path, tmp_path: Path
) -> None:
    way = WAYS[name]
    with capture_logs() as log:
        async with (
            broken(way, processes, choose_ports, tmp_path) as redis,
            Region(redis, database, policy).running(trusted=True) as region,
        ):
            id = (await region.first.create(title="old")).product_id
            await until(lambda: region.is_in_memory(id))
            await until(region.is_all_well)
            await way.begin(redis)
            await region.first.update(id, "title", title="new")
            await region.keeps_its_bound(id, "new")
            await region.names(way.words)
            assert warnings(log, way.words)
            await way.end(redis)
            await until(lambda: region.is_well(id, "new"))
            await until(region.is_all_well)
    assert PASSWORD not in str(log)


@pytest.mark.parametrize("name", [name for name in WAYS if name not in NOT_BEFORE])
async def test_before_the_start(
    name: str, processes: Processes, choose_ports: ChoosePorts, database: str, policy: Path, tmp_path: Path
) -> None:
    way = WAYS[name]
    with capture_logs() as log:
        async with broken(way, processes, choose_ports, tmp_path) as redis:
            await way.begin(redis)
            async with Region(redis, database, policy).running(trusted=False) as region:
                id = (await region.first.create(title="old")).product_id
                if way.is_heard:
                    await until(lambda: region.is_read_once(id))
                await region.first.update(id, "title", title="new")
                await region.keeps_its_bound(id, "new")
                await region.names(way.words)
                assert warnings(log, way.words)
                await way.end(redis)
                await until(lambda: region.is_well(id, "new"))
                await until(region.is_all_well)
    assert PASSWORD not in str(log)


async def test_a_change_that_is_refused_puts_what_is_held_in_doubt_at_once(
    processes: Processes, choose_ports: ChoosePorts, database: str, tmp_path: Path
) -> None:
    """Not only when the relay's mark does not come: so this is with the staleness bound that ships, and without a relay."""
    async with broken(WAYS["no evalsha"], processes, choose_ports, tmp_path) as redis:
        access = {"redis_username": USER, "redis_password": PASSWORD, "redis_timeout": 5.0}
        settings = settings_for(redis.address, database, "cs", **access)
        async with in_process(settings, relay=False) as sidecar:
            shop = Shop(sidecar)
            kept, changed = await _in_one_partition(shop)

            async def is_in_memory() -> bool:
                return await shop.source(kept) == L1

            await until(is_in_memory)
            await redis.acl("-evalsha")
            await shop.update(changed, "title", title="new")
            reply = (await shop.get(kept)).cache
            assert reply.stale or reply.source == STORE, "Redis and memory are in doubt"
            await redis.acl("+evalsha")
            watermarks = RedisWatermarks(inside.connection_of(shop.app), KeyNames("cs"))

            async def is_trusted() -> bool:
                await say(watermarks, ["catalog"], time.time())
                reply = (await shop.get(kept)).cache
                return bool(reply.source == L1 and not reply.stale)

            await until(is_trusted)


async def _in_one_partition(shop: Shop) -> tuple[str, str]:
    """Creates two products whose partition is the same, and returns their ids."""
    first = "p-0"
    second = next(id for id in (f"p-{number}" for number in itertools.count(1)) if partition_of(id) == partition_of(first))
    for id in (first, second):
        await shop.create(id, title="old")
    return first, second
