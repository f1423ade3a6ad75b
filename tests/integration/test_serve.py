"""`cache-sidecar serve` as a process: how it starts, what it refuses, how it ends."""

import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cache_sidecar.app import App
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.server.engines import private_dir, selection
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support import inside
from tests.support.engine_params import ENGINES, HAS_NATIVE
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Process, Sidecar, process, serving
from tests.support.shop import Shop, refusal
from tests.support.until import DEADLINE, until

Serve = Callable[..., AbstractAsyncContextManager[tuple[Process, Shop]]]


@pytest.fixture
def serve(valkey_cluster: ValkeyCluster, database: str, namespace: str, choose_ports: ChoosePorts, tmp_path: Path) -> Serve:
    """Runs a sidecar as a process: `serve(**settings)` yields it, and a shop that calls it."""

    @contextlib.asynccontextmanager
    async def served(**settings: Any) -> AsyncIterator[tuple[Process, Shop]]:
        address = f"127.0.0.1:{choose_ports(1)[0]}"
        config = {
            "redis_nodes": ",".join(valkey_cluster.addresses),
            "postgres_catalog": database,
            "namespace": namespace,
            "listen_address": address,
        } | settings
        target = config["listen_address"] or f"unix:{config['listen_socket']}"
        async with process("serve", tmp_path, config) as started, grpc.aio.insecure_channel(target) as channel:
            await serving(target)
            yield started, Shop(Sidecar(target, channel))

    return served


async def ended(started: Process) -> int | None:
    return await asyncio.wait_for(started.process.wait(), DEADLINE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_exit_code_0(serve: Serve, number: int) -> None:
    async with serve() as (started, shop):
        await shop.create()
        started.process.send_signal(number)
        assert await ended(started) == 0
        assert "Traceback" not in started.log.read_text()
        with pytest.raises(OSError):
            await asyncio.open_connection(*shop.address.split(":"))


async def test_sigterm_lets_calls_finish_tells_streams_and_takes_no_more(serve: Serve, database: str) -> None:
    async with serve(drain_seconds=30, postgres_timeout=30) as (started, shop):
        product = await shop.create()
        id = product.product_id
        watch = shop.products.WatchProducts(pb.WatchProductsRequest(after_version=int(product.etag, 16)))
        assert (await watch.read()).kind == pb.CHANGE_KIND_WATCH_STARTED
        health = health_pb2_grpc.HealthStub(shop.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with await psycopg.AsyncConnection.connect(database) as blocker:
            await blocker.execute("LOCK TABLE cache_sidecar.products IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.ensure_future(shop.get(id, bypass=True))
            writing = asyncio.ensure_future(shop.update(id, title="written while draining"))
            await until(lambda: waiting(database, 2))
            started.process.send_signal(signal.SIGTERM)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await watch.read()
            assert refusal(told.value).reason == "DRAINING"
            await until(lambda: refuses(shop.address, id))
            assert not reading.done()
            assert started.process.returncode is None
            await blocker.rollback()
        assert (await reading).product.product_id == id
        assert (await writing).title == "written while draining"
        assert await ended(started) == 0


async def waiting(database: str, count: int) -> bool:
    """Says whether so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        cursor = await connection.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        row = await cursor.fetchone()
    return row is not None and row[0] >= count


async def refuses(address: str, id: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await Shop(Sidecar(address, channel)).products.GetProduct(pb.GetProductRequest(product_id=id), timeout=2)
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


async def test_it_ends_when_the_grace_is_over_with_exit_code_0(serve: Serve, database: str) -> None:
    async with serve(drain_seconds=0.2, postgres_timeout=3) as (started, shop):
        id = (await shop.create()).product_id
        async with await psycopg.AsyncConnection.connect(database) as blocker:
            await blocker.execute("LOCK TABLE cache_sidecar.products IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.ensure_future(shop.get(id, bypass=True))
            await until(lambda: waiting(database, 1))
            started.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                await reading
            assert await ended(started) == 0
        assert "Traceback" not in started.log.read_text()


async def test_only_a_unix_socket_is_enough(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serve(listen_address="", listen_socket=str(path)) as (started, shop):
        created = await shop.create()
        assert (await shop.get(created.product_id)).product == created
        assert path.is_socket()
        started.process.send_signal(signal.SIGTERM)
        assert await ended(started) == 0
    assert not path.exists()


async def test_what_a_killed_one_left_is_replaced(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sock"
    # A place of its own, with a name that is short enough for a socket: other tests' sidecars come and go in the usual one.
    place = Path(tempfile.mkdtemp(dir=selection.place_for_socket(str(path)), prefix="s"))
    monkeypatch.setenv("TMPDIR", str(place))

    def folders() -> set[Path]:
        return set(place.glob(inside.prefix_of(private_dir) + inside.random_of(private_dir)))

    before = folders()
    async with serve(listen_socket=str(path)) as (started, _):
        started.process.kill()
        await ended(started)
    left = folders() - before
    assert path.is_socket(), "what kill -9 leaves"
    assert len(left) == HAS_NATIVE, "and the folder of the native engine's private socket"
    async with serve(listen_address="", listen_socket=str(path)) as (_, shop):
        await shop.create()
        assert not left & folders()
    shutil.rmtree(place)


async def fails(tmp_path: Path, **config: Any) -> tuple[int | None, list[str]]:
    """Runs `serve`, which has to fail; returns its exit code and the lines it printed."""
    async with process("serve", tmp_path, config) as started:
        code = await ended(started)
        return code, started.log.read_text().splitlines()


GOOD = {"redis_nodes": "127.0.0.1:1", "postgres_catalog": "postgresql://nobody@127.0.0.1:1/none"}


async def test_a_second_one_on_the_same_addresses_fails_and_the_first_goes_on(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    async with serve(listen_socket=path) as (_, shop):
        code, lines = await fails(tmp_path, **GOOD, listen_address=shop.address, listen_socket=path)
        assert code == 64
        assert lines == [f"cache-sidecar: cannot listen on {shop.address}: it is in use, or not an address of this machine"]
        code, lines = await fails(tmp_path, **GOOD, listen_address="127.0.0.1:0", listen_socket=path)
        assert (code, lines) == (64, [f"cache-sidecar: listen_socket: another process is listening on {path}"])
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            await Shop(Sidecar(path, channel)).create()


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_begun_before_the_address_is_taken(engine: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = App(Settings(**GOOD, listen_address=f"127.0.0.1:{taken.getsockname()[1]}", engine=engine))
        before = asyncio.all_tasks()
        with pytest.raises(SettingsError, match="it is in use"):
            await app.start()
        assert asyncio.all_tasks() == before
        await app.stop()


WRONG = {
    "no Redis": ({"redis_nodes": ""}, "redis_nodes"),
    "no DSN": ({"postgres_catalog": "host=localhost"}, "postgres_catalog"),
    "an unknown setting": ({"redis_node": "127.0.0.1:1"}, "did you mean 'redis_nodes'?"),
    "nowhere to listen": ({"listen_address": ""}, "listen_address and listen_socket are both empty"),
    "others could call": (
        {"listen_address": "0.0.0.0:0"},
        "listen_address: 0.0.0.0:0 is not a loopback address, and has neither TLS nor tokens: set listen_tls_cert and ",
    ),
    "a missing policy": ({"policy_file": "/no/such/policy.toml"}, "/no/such/policy.toml"),
}


@pytest.mark.parametrize(("settings", "said"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_setting_is_one_line_and_exit_code_64_before_any_port_is_bound(
    tmp_path: Path, choose_ports: ChoosePorts, settings: dict[str, Any], said: str
) -> None:
    with socket.socket() as taken:
        # If it tried to bind before it looked at its settings, it would complain about this instead.
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, lines = await fails(tmp_path, **GOOD | {"listen_address": address} | settings)
    assert code == 64
    assert len(lines) == 1, lines
    assert lines[0].startswith("cache-sidecar: ")
    assert said in lines[0]
