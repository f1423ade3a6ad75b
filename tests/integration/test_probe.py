"""What Kubernetes asks of a sidecar: `cache-sidecar-probe`, and `POST /quit`."""

import asyncio
import re
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from cache_sidecar import probe
from cache_sidecar.cli import cli
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server import shutdown_endpoint
from cache_sidecar.v1.product_service_pb2 import GetProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.support.authority import Authority, listen
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process
from tests.support.tokens import secret_file, token
from tests.support.until import DEADLINE, until

NOWHERE = {"redis_nodes": "127.0.0.1:1", "postgres_catalog": "postgresql://127.0.0.1:1/none"}


async def ask(address: str, *more: str) -> tuple[int | None, str]:
    """Runs the program as Kubernetes does; returns its exit code and what it said."""
    program = str(Path(sys.executable).with_name("cache-sidecar-probe"))
    run = await asyncio.create_subprocess_exec(program, address, *more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = await asyncio.wait_for(run.communicate(), 2 * DEADLINE)  # longer than it may --wait
    return run.returncode, said.decode()


async def _degraded(address: str, what: str) -> list[str]:
    """Returns what the program says is degraded, nothing before that is among it. A sidecar that goes on is ready and alive."""
    code, said = await ask(address, "--verbose")
    assert code == 0
    return said.splitlines() if f"degraded: {what} " in said else []


async def _degraded_for_callers(address: str, what: str) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await ProductServiceStub(channel).GetProduct(GetProductRequest(product_id="a"))
    return await _degraded(address, what)


async def _degraded_with(address: str, *options: str) -> str:
    """Returns what is degraded, once GetStats is answered."""
    _, said = await ask(address, "--verbose", *options)
    return "" if "did not answer GetStats" in said else said


async def post(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    received = await asyncio.wait_for(reader.read(), DEADLINE)
    writer.close()
    return received


async def quit(port: int, token: str = "", *, host: str = "localhost", authorization: str | None = None) -> str:
    """Sends POST /quit, and returns the answer."""
    credential = f"Bearer {token}" if authorization is None else authorization
    request = f"POST /quit HTTP/1.1\r\nHost: {host}\r\nAuthorization: {credential}\r\nContent-Length: 0\r\n\r\n"
    return (await post(port, request.encode())).decode()


async def test_a_job_waits_for_its_sidecar_and_tells_it_to_quit(tmp_path: Path, choose_ports: ChoosePorts) -> None:
    port, quit_port = choose_ports(2)
    address, unix = f"127.0.0.1:{port}", f"unix:{tmp_path}/s"
    file = tmp_path / "quit-token"
    config = NOWHERE | {"listen_address": address, "listen_socket": f"{tmp_path}/s"}
    config |= {"quit_address": f"127.0.0.1:{quit_port}", "quit_token_file": str(file)}
    async with process("serve", tmp_path, config) as started:
        assert await ask(address, "--wait", str(DEADLINE)) == (0, "")
        assert await ask(unix) == (0, "")
        said = await until(lambda: _degraded(unix, "redis"))
        refused = r"; since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ: .*refused.*"
        redis = "degraded: redis 127.0.0.1:1: reads and writes for its slots go to PostgreSQL"
        assert any(re.fullmatch(redis + refused, line) for line in said)
        assert any(
            line.startswith("degraded: invalidations: L1 serves entries marked stale until stale_limit, then misses; since ")
            for line in said
        )
        said = await until(lambda: _degraded_for_callers(address, "postgresql"))
        store = "degraded: postgresql catalog, user, analytics: only cached data is served, and writes fail"
        assert any(re.fullmatch(store + refused, line) for line in said)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        answer = await quit(quit_port, file.read_text().strip())
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert answer.endswith("\r\n\r\nstopping\n")
        assert await asyncio.wait_for(started.process.wait(), DEADLINE) == 0
    assert await ask(address) == (1, f"cache-sidecar-probe: {address}: Connection refused\n")
    assert await ask(unix) == (1, f"cache-sidecar-probe: {unix}: No such file or directory\n")


async def test_a_sidecar_with_tls_and_tokens_is_asked(tmp_path: Path, choose_ports: ChoosePorts) -> None:
    authority = Authority()
    client = authority.client("probe.shop")
    for name, content in {"ca": authority.cert, "cert": client.cert, "key": client.key, "other": Authority().cert}.items():
        (tmp_path / name).write_bytes(content)
    secret_file(tmp_path / "tokens", f"# of this month\ncart app {token('app')}\n{token('long') * 4}\n")
    (tmp_path / "roles").write_text(f"cart app {token('app')}\nprobe app,read {token('read')}\n")
    (port,) = choose_ports(1)
    address = f"127.0.0.1:{port}"
    listener = listen(tmp_path, authority.server("cache.shop"), authority.cert)
    config = NOWHERE | listener | {"listen_address": address, "access_tokens_file": f"{tmp_path}/tokens"}
    tls, mtls = ["--ca", f"{tmp_path}/ca"], ["--cert", f"{tmp_path}/cert", "--key", f"{tmp_path}/key"]
    async with process("serve", tmp_path, config):
        assert await ask(address, "--wait", str(DEADLINE), *tls, *mtls, "--server-name", "cache.shop") == (0, "")
        code, said = await ask(address, "--verbose", *tls, *mtls)
        assert (code, said) == (0, "degraded: unknown: the sidecar did not answer GetStats\n")
        code, said = await ask(address, "--verbose", *tls, *mtls, "--token-file", f"{tmp_path}/tokens")
        assert code == 0
        assert "degraded: invalidations: L1 serves entries marked stale until stale_limit, then misses; since " in said
        (tmp_path / "tokens").write_text((tmp_path / "roles").read_text())
        said = await until(lambda: _degraded_with(address, *tls, *mtls, "--token-file", f"{tmp_path}/tokens"))
        assert "degraded: invalidations: L1 serves entries marked stale until stale_limit, then misses; since " in said
        problem = f"cache-sidecar-probe: {address}: the certificate is not trusted: "
        assert (await ask(address, "--ca", f"{tmp_path}/other"))[1].startswith(problem)
        assert (await ask(address, *tls, "--server-name", "other.shop"))[1].startswith(problem)
        for too_little in ([], tls):
            code, said = await ask(address, *too_little)
            assert (code, said.count("\n")) == (1, 1), said
    for wrong in (mtls, [*tls, "--cert", f"{tmp_path}/cert"], ["--ca", f"{tmp_path}/none"], ["--ca", f"{tmp_path}/key"]):
        code, said = await ask(address, *wrong)
        assert code == 2
        assert "Traceback" not in said


async def test_quit_asks_for_its_token_and_for_a_loopback_name(tmp_path: Path, choose_ports: ChoosePorts) -> None:
    (port,) = choose_ports(1)
    file, stop = secret_file(tmp_path / "token", f"{token('first')}\n"), asyncio.Event()
    async with shutdown_endpoint.listening(f"127.0.0.1:{port}", str(file), stop):
        for credential in ("", "Bearer", "Bearer ", "Bearer no-token", token("first"), f"Basic {token('first')}"):
            answer = await quit(port, authorization=credential)
            assert answer.startswith("HTTP/1.1 401 Unauthorized\r\n"), credential
            assert "\r\nWWW-Authenticate: Bearer\r\n" in answer
        for host in (
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            f"evil.example:{port}",
            "localhost:x",
            "localhost\r\nHost: a",
        ):
            answer = await quit(port, token("first"), host=host)
            assert answer.startswith("HTTP/1.1 403 Forbidden\r\n"), host
        assert (await post(port, b"POST /quit HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
        assert (await post(port, b"GET /quit HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert await post(port, b"x" * 10_000) == b""
        assert not stop.is_set()
        # A token that others can read does not replace the one before.
        file.write_text(token("second"))
        file.chmod(0o644)
        assert (await quit(port, token("second"))).startswith("HTTP/1.1 401 ")
        file.chmod(0o600)
        assert (await quit(port, token("first"))).startswith("HTTP/1.1 401 ")
        for host in ("LOCALHOST", f"[::1]:{port}", f"127.0.0.1:{port}"):
            stop.clear()
            assert (await quit(port, token("second"), host=host)).startswith("HTTP/1.1 200 OK\r\n")
            assert stop.is_set()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("s3cret", "has a token of at most 30 random bits: use 128 or more, as `openssl rand -base64 32` prints them"),
        ("a b", "must be a token: letters, digits and -._~+/ only"),
        ("", "must be a token: letters, digits and -._~+/ only"),
    ],
)
async def test_a_token_for_quit_that_is_of_no_use_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = secret_file(tmp_path / "token", content)
    with pytest.raises(SettingsError) as caught:
        async with shutdown_endpoint.listening("127.0.0.1:0", str(file), asyncio.Event()):
            pass
    assert str(caught.value) == f"quit_token_file: {file} {said}"
    with pytest.raises(
        SettingsError, match=r"^quit_token_file: cannot write /no/such/folder/token: No such file or directory$"
    ):
        async with shutdown_endpoint.listening("127.0.0.1:0", "/no/such/folder/token", asyncio.Event()):
            pass


async def test_a_taken_quit_address_is_one_line(tmp_path: Path, choose_ports: ChoosePorts) -> None:
    port, quit_port = choose_ports(2)
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", quit_port)
    config = NOWHERE | {"listen_address": f"127.0.0.1:{port}", "quit_address": f"127.0.0.1:{quit_port}"}
    config |= {"quit_token_file": f"{tmp_path}/token"}
    async with taken, process("serve", tmp_path, config) as started:
        assert await asyncio.wait_for(started.process.wait(), DEADLINE) == 64
        assert f"cache-sidecar: quit_address: cannot listen on 127.0.0.1:{quit_port}: " in started.log.read_text()


def test_quit_is_for_the_loopback_interface() -> None:
    variables = {f"CACHE_SIDECAR_{name.upper()}": value for name, value in NOWHERE.items()}
    done = CliRunner().invoke(cli, ["serve"], env=variables | {"CACHE_SIDECAR_QUIT_ADDRESS": "0.0.0.0:1"})
    assert (done.exit_code, done.stderr.partition(", such as")[0]) == (
        64,
        "cache-sidecar: quit_address: must be on the loopback interface",
    )


async def test_a_server_that_is_no_sidecar_is_not_serving(choose_ports: ChoosePorts) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await asyncio.to_thread(probe.ask, probe.Target(f"127.0.0.1:{port}")) == "the call was rejected"
    await server.stop(None)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the connection was closed"),
        (b"\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x08\x02", "not serving"),
        (b"\x00\x00\x00\x07\x00\x00\x00\x00\x00", "the call was rejected"),
    ],
)
async def test_what_else_may_answer(answer: bytes, problem: str) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(probe.ask, probe.Target(f"127.0.0.1:{port}"))
    assert problem in found or "reset" in found


def test_an_address_that_is_none() -> None:
    assert probe.ask(probe.Target("nonsense")) == "must be host:port or unix:/path"
