"""`cache-sidecar dev` as a person uses it: started, tried, stopped, killed, started again."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from redis.asyncio import RedisCluster

from cache_sidecar.devstack.catalogue import FIRST_PRODUCT_ID
from cache_sidecar.devstack.processes import RECORDS
from cache_sidecar.devstack.valkey import BUS
from cache_sidecar.devstack.waiting import until
from cache_sidecar.v1 import cache_pb2, product_service_pb2, product_service_pb2_grpc

TOP = Path(__file__).parents[2]
PRODUCTS = 300
# Generous, for a machine that does other things too.
DEADLINE = 60.0


class Dev:
    """A running `cache-sidecar dev`."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path, out: Path) -> None:
        self.process = process
        self.state = state
        self._out = out

    @property
    def out(self) -> str:
        """What it printed so far."""
        return self._out.read_text()

    @property
    def facts(self) -> dict[str, Any]:
        """dev.json."""
        found: dict[str, Any] = json.loads((self.state / "dev.json").read_text())
        return found

    @property
    def recorded(self) -> list[int]:
        """The ids of the processes it has started and not stopped."""
        try:
            return [record["pid"] for record in json.loads((self.state / RECORDS).read_text())]
        except FileNotFoundError:
            return []

    async def ready(self) -> None:
        """Waits for dev.json, and for the summary that follows it."""
        assert await until(_async(lambda: self._is_ready() or self.process.poll() is not None), seconds=DEADLINE), self.out
        assert self.process.poll() is None, self.out

    def _is_ready(self) -> bool:
        return (self.state / "dev.json").exists() and "import products" in self.out

    async def end(self, number: int) -> int:
        """Sends a signal, and returns the exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Waits for the end, and returns the exit code."""
        assert await until(_async(lambda: self.process.poll() is not None), seconds=DEADLINE), self.out
        return self.process.returncode


@asynccontextmanager
async def _dev(state: Path, *options: str, **environment: str) -> AsyncIterator[Dev]:
    """Starts it; ends it, and whatever a kill -9 left of it, at the end."""
    out = state.with_name(f"{state.name}.out")
    with _start(state, out, options, environment) as process:
        dev = Dev(process, state, out)
        try:
            yield dev
        finally:
            pids = dev.recorded
            if process.poll() is None:
                await dev.end(signal.SIGTERM)
            for pid in pids:
                if _alive(pid) and process.returncode == -signal.SIGKILL:
                    psutil.Process(pid).kill()


def _start(state: Path, out: Path, options: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cache_sidecar", "dev", "--state", str(state), "--products", str(PRODUCTS), *options]
    with out.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment}, cwd=TOP)


def _page(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/", timeout=DEADLINE) as reply:
        found: bytes = reply.read()
    return found


async def test_a_day_with_the_stack(state: Path) -> None:
    """Start, look, try, a second start in the same place, a child that dies, Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wish = taken.getsockname()[1]
        async with _dev(state, "--sidecars", "2", "--listen", f"127.0.0.1:{wish}") as dev:
            await dev.ready()
            facts = dev.facts
            _check_facts(facts, state, taken=wish)
            await _check_files(dev)
            for sidecar in facts["sidecars"]:
                for target in (sidecar["grpc"], f"unix:{sidecar['socket']}"):
                    title, _ = await _get(target)
                    assert title
                assert f"http://{sidecar['web']}/ shows its state" in dev.out
                assert b"<title>" in await asyncio.to_thread(_page, sidecar["web"])
            assert title in _paste(dev.out)

            second = _run_dev(state)
            assert second.returncode == 64
            assert second.stderr.startswith(f"cache-sidecar: already running (pid {dev.process.pid}) in {state}: stop it")
            assert second.stderr.count("\n") == 1

            lines = []
            for pid, role in ((facts["sidecars"][1]["pid"], "sidecar-2"), (facts["relays"][0]["pid"], "relay")):
                os.kill(pid, signal.SIGKILL)
                lines.append(
                    f"{role} (pid {pid}) was killed by SIGKILL; `cache-sidecar dev --restart` starts it again. "
                    f"Log: {state / 'logs' / role}.log\n"
                )
                assert await until(_async(lambda: lines[-1] in dev.out), seconds=DEADLINE)
            assert await _get(facts["sidecars"][0]["grpc"])
            pids = dev.recorded
            assert await dev.end(signal.SIGINT) == 0
            assert [dev.out.count(line) for line in lines] == [1, 1]
            assert not any(_alive(pid) for pid in pids)
            assert not (state / "dev.json").exists()
            assert not (state / "sidecar-1.sock").exists()


async def test_what_died_is_started_again_when_asked(state: Path, tmp_path: Path) -> None:
    """With the user's own products instead of demo products."""
    data = tmp_path / "own.csv"
    data.write_text("product_id,title,price\nMINE-1,My Kite,9.99\nMINE-2,Bad,x\n")
    own = ("--products", "0", "--data", str(data), "--currency", "EUR", "--listen", "127.0.0.1:0")
    assert _run_dev(state, "--restart").stderr.startswith("cache-sidecar: nothing is ready in ")
    async with _dev(state, *own) as dev:
        await dev.ready()
        assert "1 products written, 0 unchanged\n1 rejected: 1 price\n" in dev.out
        assert f"unix:{state.absolute()}/sidecar-1.sock" in dev.out
        assert "My Kite" in _paste(dev.out)
        assert _run_dev(state, "--restart").stdout == "everything runs\n"
        before = dev.facts
        dead = [before["sidecars"][0]["pid"], before["relays"][0]["pid"], before["redis"][0]["pid"], before["postgres_pid"]]
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        assert await until(_async(lambda: dev.out.count("was killed by SIGKILL") == len(dead)), seconds=DEADLINE), dev.out
        done = _run_dev(state, "--restart")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(role in done.stdout for role in ("sidecar-1", "relay", "postgres", "valkey-"))
        assert await until(_async(lambda: "Started again: " in dev.out), seconds=DEADLINE), dev.out
        after = dev.facts
        assert after["sidecars"][0]["grpc"] == before["sidecars"][0]["grpc"]
        assert not {each["pid"] for each in (*after["sidecars"], *after["relays"], *after["redis"])} & set(dead)
        assert sum(node["primary"] for node in after["redis"]) == 3
        title, _ = await _get(after["sidecars"][0]["grpc"], "MINE-1")
        assert title == "My Kite"


async def test_a_stack_without_products(state: Path) -> None:
    async with _dev(state, "--products", "0", "--listen", "127.0.0.1:0") as dev:
        await dev.ready()
        assert "A command to try in another terminal" in dev.out
        assert "GetProduct" not in dev.out


async def test_regions_share_a_postgresql_and_nothing_else(state: Path) -> None:
    async with _dev(state, "--regions", "2", "--listen", "127.0.0.1:0") as dev:
        await dev.ready()
        facts = dev.facts
        for part, count in (("sidecars", 1), ("relays", 1), ("redis", 6)):
            assert [one["region"] for one in facts[part]] == ["region-1"] * count + ["region-2"] * count
        first, second = (sidecar["grpc"] for sidecar in facts["sidecars"])
        for target in (first, second):
            assert await until(lambda target=target: _is_from_memory(target), seconds=DEADLINE)
        async with grpc.aio.insecure_channel(first) as channel:
            request = product_service_pb2.UpdateProductRequest()
            request.product.product_id, request.product.title = FIRST_PRODUCT_ID, "from the other region"
            request.update_mask.paths.append("title")
            await product_service_pb2_grpc.ProductServiceStub(channel).UpdateProduct(request)

        async def is_there() -> bool:
            return (await _get(second))[0] == "from the other region"

        assert await until(is_there, seconds=DEADLINE)
        pids = dev.recorded
        assert await dev.end(signal.SIGTERM) == 0
        assert not any(_alive(pid) for pid in pids)


def _check_facts(facts: dict[str, Any], state: Path, *, taken: int) -> None:
    assert sorted(facts) == ["databases", "postgres_pid", "redis", "relays", "sidecars"]
    assert sorted(facts["databases"]) == ["analytics", "catalog", "user"]
    assert [Path(sidecar["socket"]) for sidecar in facts["sidecars"]] == [state / "sidecar-1.sock", state / "sidecar-2.sock"]
    assert all(int(sidecar["grpc"].rpartition(":")[2]) > taken for sidecar in facts["sidecars"])
    assert [node["primary"] for node in facts["redis"]] == [True] * 3 + [False] * 3
    pids = [one["pid"] for part in ("sidecars", "relays", "redis") for one in facts[part]] + [facts["postgres_pid"]]
    assert len(set(pids)) == 10
    assert all(_alive(pid) for pid in pids)


async def _check_files(dev: Dev) -> None:
    for name in ("dev.json", "sidecar-1.toml", "sidecar-2.toml", "relay.toml", RECORDS):
        assert stat.S_IMODE((dev.state / name).stat().st_mode) == 0o600
    async with await psycopg.AsyncConnection.connect(dev.facts["databases"]["catalog"]) as connection:
        cursor = await connection.execute("SELECT count(*) FROM cache_sidecar.products")
        assert await cursor.fetchone() == (PRODUCTS,)
    async with RedisCluster.from_url(f"redis://{dev.facts['redis'][0]['address']}") as client:
        assert await client.ping(target_nodes=RedisCluster.PRIMARIES)


def _paste(out: str) -> str:
    """Runs the Python call of the summary in a shell, from the project's top folder."""
    found = re.search(r"memory\.\n(.*?\n')\n\n# ", out, re.DOTALL)
    assert found, out
    done = subprocess.run(["/bin/sh", "-c", found[1]], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+\.\d\d EUR, from SOURCE_", done.stdout, re.MULTILINE)
    return done.stdout


async def test_killed_with_9_the_next_start_cleans_up_and_keeps_the_data(state: Path) -> None:
    async with _dev(state) as dev:
        await dev.ready()
        before = dev.facts
        left = dev.recorded
        async with await psycopg.AsyncConnection.connect(before["databases"]["catalog"]) as connection:
            await connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
        assert await dev.end(signal.SIGKILL) == -signal.SIGKILL
        assert all(_alive(pid) for pid in left)

        # In its shell somebody works with another Redis.
        async with _dev(state, CACHE_SIDECAR_REDIS_NODES="127.0.0.1:1", CACHE_SIDECAR_NAMESPACE="theirs") as again:
            await again.ready()
            assert not any(_alive(pid) for pid in left)
            assert "Stopped processes left behind by an earlier run: " in again.out
            assert "Demo catalogue: up to date" in again.out
            after = again.facts
            assert [node["address"] for node in after["redis"]] == [node["address"] for node in before["redis"]]
            assert after["databases"] == before["databases"]
            async with await psycopg.AsyncConnection.connect(after["databases"]["catalog"]) as connection:
                # The second read is from memory only if the sidecar found our Redis.
                assert await until(lambda: _is_from_memory(after["sidecars"][0]["grpc"]), seconds=DEADLINE)
                assert await (await connection.execute("SELECT a FROM mine")).fetchone() == (1,)
                await connection.execute("DROP TABLE cache_sidecar.products")
            assert await again.end(signal.SIGTERM) == 0
            assert not any(_alive(pid) for pid in again.recorded)

    async with _dev(state) as broken:
        assert await broken.ended() == 69
        assert "cache-sidecar: PostgreSQL failed: relation" in broken.out
        assert "Traceback" not in broken.out
        assert broken.recorded == []


async def _is_from_memory(target: str) -> bool:
    return (await _get(target))[1] == cache_pb2.SOURCE_L1


async def test_interrupted_before_it_is_ready_it_stops_what_it_started(state: Path) -> None:
    async with _dev(state) as dev:
        assert await until(_async(lambda: len(dev.recorded) >= 4), seconds=DEADLINE), dev.out
        pids = dev.recorded
        assert await dev.end(signal.SIGINT) == 130
        assert not any(_alive(pid) for pid in [*pids, *dev.recorded])
        assert "Traceback" not in dev.out


async def test_a_sidecar_that_refuses_its_settings_ends_the_start_with_its_reason(state: Path) -> None:
    async with _dev(state, CACHE_SIDECAR_L1_MAX_BYTES="a lot") as dev:
        assert await dev.ended() == 64
        (line,) = [line for line in dev.out.splitlines() if line.startswith("cache-sidecar: ")]
        assert re.match(r"cache-sidecar: sidecar-1 did not start: .*l1_max_bytes.* \(log: .*/logs/sidecar-1.log\)", line)
        assert "Traceback" not in dev.out
        assert dev.recorded == []


async def test_a_child_that_dies_ends_the_start(state: Path) -> None:
    async with _dev(state) as dev:
        role = "sidecar-1"
        assert await until(_async(lambda: role in _records(state)), seconds=DEADLINE), dev.out
        os.kill(_records(state)[role], signal.SIGKILL)
        assert await dev.ended() == 69
        assert "cache-sidecar: sidecar-1 did not start: " in dev.out
        assert dev.recorded == []


def test_a_state_directory_that_is_not_one_of_ours_is_one_line(state: Path) -> None:
    (state / "postgres").write_text("a file")
    done = _run_dev(state)
    assert done.returncode == 64
    assert done.stderr.startswith(f"cache-sidecar: cannot use the state directory {state}: ")
    assert done.stderr.count("\n") == 1


def _records(state: Path) -> dict[str, int]:
    try:
        return {record["role"]: record["pid"] for record in json.loads((state / RECORDS).read_text())}
    except FileNotFoundError:
        return {}


@pytest.fixture
def state(tmp_path: Path, choose_ports: Callable[[int], list[int]]) -> Path:
    """A directory with nothing but ports to prefer, away from those of a person's stack and of other sessions."""
    state = tmp_path / "state"
    state.mkdir()
    ports = choose_ports(6)
    # The second port of one of the cluster's nodes is PostgreSQL's wish: it has to be passed over.
    (state / "ports.json").write_text(json.dumps({"valkey": ports, "postgres": [ports[1] + BUS]}))
    return state


def _run_dev(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-m", "cache_sidecar", "dev", "--state", str(state), *options]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=DEADLINE)


async def _get(target: str, product_id: str = FIRST_PRODUCT_ID) -> tuple[str, cache_pb2.Source]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = product_service_pb2_grpc.ProductServiceStub(channel)
        reply = await stub.GetProduct(product_service_pb2.GetProductRequest(product_id=product_id), timeout=10)
    return reply.product.title, reply.cache.source


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _async(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return condition()

    return ask
