"""The load generator against real gRPC servers."""

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.bench.connection import LoadError
from tests.bench.load import fetch, run_load
from tests.bench.processes import BenchError, running

METHOD = "/test.Echo/Say"


@dataclass
class Echo:
    """Answers with what it was asked; refuses every call whose payload starts with `no`."""

    server: grpc.Server
    asked: list[bytes] = field(default_factory=list)
    metadata: set[tuple[str, str | bytes]] = field(default_factory=set)
    port: int = 0

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        self.metadata.update(context.invocation_metadata())
        if request.startswith(b"no"):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much work")
        return request * 100


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/echo.sock"


@pytest.fixture
def echo(socket_path: str) -> Iterator[Echo]:
    with ThreadPoolExecutor(2) as workers:
        echo = Echo(grpc.server(workers))
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo.say)
        echo.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
        echo.port = echo.server.add_insecure_port("127.0.0.1:0")
        echo.server.add_insecure_port(socket_path)
        echo.server.start()
        yield echo
        echo.server.stop(0).wait()


@pytest.fixture
def address(echo: Echo) -> str:
    return f"127.0.0.1:{echo.port}"


def test_every_call_of_the_server_is_in_the_result(echo: Echo, address: str) -> None:
    payloads = [b"one", b"no way", b"three"]
    result = run_load(address, METHOD, payloads, connections=2, in_flight=3, seconds=0.3, sample_every=1)
    refused = sum(request == b"no way" for request in echo.asked)
    assert result.errors == {"grpc-status 8: too much work": refused}
    assert result.calls == len(echo.asked) - refused > 6
    assert set(result.samples) == {(0, b"one" * 100), (2, b"three" * 100)}
    assert result.reply_bytes == sum(len(request) * 100 for request in echo.asked if request != b"no way")
    assert len(result.latencies) == result.calls
    assert 0 < result.percentile_us(50) <= result.percentile_us(99) <= result.percentile_us(100)
    assert result.calls_per_second == result.calls / result.seconds
    assert (result.closed, result.client_cpu_seconds > 0) == (0, True)
    with pytest.raises(LoadError, match=f"^{refused} of {len(echo.asked)} calls failed: {refused} x grpc-status 8"):
        result.check()


@pytest.mark.usefixtures("echo")
def test_a_unix_socket_serves_the_same(socket_path: str) -> None:
    result = run_load(socket_path, METHOD, [b"one"], connections=1, in_flight=1, seconds=0.1).check()
    assert result.reply_bytes == result.calls * 300


def test_metadata_is_sent_with_every_call(echo: Echo, address: str) -> None:
    run_load(address, METHOD, [b"x"], connections=1, in_flight=2, seconds=0.1, metadata=(("x-shop", "seven"),)).check()
    assert ("x-shop", "seven") in echo.metadata
    assert ("user-agent", "cache-sidecar-bench") in echo.metadata


def test_fetch_asks_each_once_and_keeps_the_order(echo: Echo, address: str) -> None:
    payloads = [b"%d" % number for number in range(200)]
    assert fetch(address, METHOD, payloads) == [payload * 100 for payload in payloads]
    assert sorted(echo.asked) == sorted(payloads)


def test_replies_of_many_frames_are_whole(address: str) -> None:
    payload = b"0123456789" * 1600
    assert fetch(address, METHOD, [payload] * 20) == [payload * 100] * 20


def test_a_method_that_is_not_there_is_an_error(address: str) -> None:
    with pytest.raises(LoadError, match="1 of 1 calls failed: 1 x grpc-status 12: Method not found!"):
        fetch(address, "/test.Echo/Shout", [b"one"])


def test_nobody_listens(socket_path: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(LoadError, match=r"cannot connect to 127.0.0.1"):
            fetch(f"127.0.0.1:{taken.getsockname()[1]}", METHOD, [b"one"])
    with pytest.raises(LoadError, match="cannot connect to unix:"):
        fetch(socket_path, METHOD, [b"one"])


def test_a_server_that_hangs_up_is_no_success() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as worker:

        def hang_up() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1)

        done = worker.submit(hang_up)
        result = run_load(f"127.0.0.1:{server.getsockname()[1]}", METHOD, [b"x"], connections=1, in_flight=4, seconds=5)
        done.result()
    assert (result.calls, sum(result.errors.values()), result.closed) == (0, 4, 1)
    with pytest.raises(LoadError, match="4 of 4 calls failed"):
        result.check()


def test_a_server_that_goes_away_is_noticed_between_calls(echo: Echo, address: str) -> None:
    with ThreadPoolExecutor(1) as worker:
        load = worker.submit(run_load, address, METHOD, [b"x"], connections=1, in_flight=1, seconds=60)
        deadline = time.monotonic() + 20
        while not echo.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        echo.server.stop(5).wait()
        result = load.result()
    assert result.closed == 1
    with pytest.raises(LoadError, match="then the server closed 1 connections"):
        replace(result, errors={}).check()


@pytest.mark.parametrize("sizes", [{"connections": 0}, {"in_flight": 0}, {"seconds": 0.0}, {"sample_every": 0}])
def test_sizes_are_positive(address: str, sizes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"connections": 1, "in_flight": 1, "seconds": 0.1} | sizes
    with pytest.raises(ValueError, match=r"positive|1 or more"):
        run_load(address, METHOD, [b"x"], **given)


def test_the_bare_servicer_answers_any_request_with_its_reply(tmp_path: Path) -> None:
    reply = tmp_path / "reply"
    reply.write_bytes(b"r" * 300)
    arguments = ["tests.bench.bare", METHOD, str(reply), "127.0.0.1:0"]
    with running("bare", arguments, core=None, directory=tmp_path, answers=True) as process:
        address = f"127.0.0.1:{process.ask('')}"
        assert fetch(address, METHOD, [b"", b"\n\x01x"]) == [b"r" * 300] * 2
        before = process.cpu_seconds()
        run_load(address, METHOD, [b""], connections=1, in_flight=8, seconds=0.3).check()
        assert process.cpu_seconds() > before


def test_a_program_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with (
        running("broken", ["tests.bench.bare", METHOD, "/nowhere"], core=None, directory=tmp_path) as process,
        pytest.raises(BenchError, match=r"broken ended with 1: FileNotFoundError.*/nowhere"),
    ):
        process.wait_until(lambda: False)
    with contextlib.ExitStack() as stack:
        arguments = ["tests.bench.bare", METHOD, "/nowhere"]
        process = stack.enter_context(running("mute", arguments, core=None, directory=tmp_path, answers=True))
        with pytest.raises(BenchError, match=r"mute gave no answer.*FileNotFoundError"):
            process.ask("")
