"""The export of spans to a collector that refuses them, is slow, speaks TLS or is away."""

from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from cache_sidecar.core import span_export, tracing
from cache_sidecar.core.dependencies import Dependencies, Dependency
from cache_sidecar.core.span_export import OtelTracer
from tests.integration.test_cli import run as command
from tests.support.authority import Authority
from tests.support.collector import TRACE, collecting, parent, tracing_to
from tests.support.tokens import secret_file
from tests.support.until import until

CALL = "shop.Shop/Ask"


def make_span(tracer: OtelTracer, code: str = "OK") -> None:
    tracing.end_call(tracer.begin_call(CALL, parent(), None), code)


@pytest.fixture
def dependency() -> Dependency:
    return Dependencies(is_logged=False).of("trace collector")


def failure_of(dependency: Dependency) -> str:
    failing = dependency.failing()
    return failing.reason if failing else ""


async def test_what_a_collector_refuses_is_counted_and_reported_in_its_words(dependency: Dependency) -> None:
    async with collecting() as collector, tracing_to(collector.address, dependency=dependency) as tracer:
        collector.refusal = grpc.StatusCode.PERMISSION_DENIED, "no such tenant"
        make_span(tracer)
        await until(lambda: failure_of(dependency) == "PERMISSION_DENIED: no such tenant")
        assert tracer.counts() == {"exported": 0, "failed": 1, "dropped": 0}
        collector.refusal = None
        make_span(tracer)
        await until(lambda: not failure_of(dependency))
        assert tracer.counts() == {"exported": 1, "failed": 1, "dropped": 0}


async def test_what_may_be_better_a_moment_later_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_export, "PAUSES", (0.01,) * 1000)
    async with collecting() as collector, tracing_to(collector.address) as tracer:
        collector.refusal = grpc.StatusCode.UNAVAILABLE, "restarting"
        make_span(tracer)
        await until(lambda: collector.refused > 1)
        collector.refusal = None
        await collector.call(CALL)
        await until(lambda: tracer.counts() == {"exported": 1, "failed": 0, "dropped": 0})


async def test_what_a_slow_collector_has_no_room_for_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector, tracing_to(collector.address) as tracer:
        monkeypatch.setattr(span_export, "MAX_WAITING", 10)
        collector.gate.close()
        make_span(tracer)
        await collector.gate.reached()
        for _ in range(13):
            make_span(tracer)
        assert tracer.counts() == {"exported": 0, "failed": 0, "dropped": 3}
        collector.gate.open()
        await until(lambda: tracer.counts() == {"exported": 11, "failed": 0, "dropped": 3})
    assert len(collector.of()) == 11


async def test_over_tls_both_sides_are_authenticated_and_new_files_are_used(tmp_path: Path, dependency: Dependency) -> None:
    authority, other = Authority(), Authority()
    server, client = authority.server(), authority.client("sidecar")
    credentials = grpc.ssl_server_credentials([(server.key, server.cert)], authority.cert, require_client_auth=True)
    ca, cert, key = tmp_path / "ca", tmp_path / "cert", secret_file(tmp_path / "key", client.key)
    ca.write_bytes(other.cert)
    cert.write_bytes(client.cert)
    files = {"ca": str(ca), "cert": str(cert), "key": str(key)}
    async with (
        collecting(credentials=credentials) as collector,
        tracing_to(collector.address, dependency=dependency, **files) as tracer,
    ):
        make_span(tracer)
        await until(lambda: failure_of(dependency))
        ca.write_bytes(authority.cert)
        make_span(tracer)
        await collector.call(CALL)


async def test_a_tls_file_that_is_gone_for_a_while_ends_no_connection(tmp_path: Path) -> None:
    authority = Authority()
    server = authority.server()
    ca = tmp_path / "ca"
    ca.write_bytes(authority.cert)
    credentials = grpc.ssl_server_credentials([(server.key, server.cert)])
    async with collecting(credentials=credentials) as collector, tracing_to(collector.address, ca=str(ca)) as tracer:

        async def exported(count: int) -> None:
            make_span(tracer)
            await until(lambda: sum(tracer.counts().values()) == count)

        await exported(1)
        ca.unlink()
        with capture_logs() as logs:
            # The second look at a change finds that it is one, the third one that there is nothing more.
            for count in (2, 3, 4):
                await exported(count)
        assert [line["error"] for line in logs] == [f"{ca}: No such file or directory"]
        assert tracer.counts() == {"exported": 4, "failed": 0, "dropped": 0}


async def test_statuses_that_are_the_server_s_fault_are_errors() -> None:
    async with collecting() as collector, tracing_to(collector.address) as tracer:
        for code in ("OK", "NOT_FOUND", "UNAVAILABLE"):
            make_span(tracer, code)
        await until(lambda: len(collector.of(TRACE)) == 3)
    codes = {span.attributes["rpc.response.status_code"]: span.is_error for span in collector.spans}
    assert codes == {"OK": False, "NOT_FOUND": False, "UNAVAILABLE": True}


async def test_variables_of_opentelemetry_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-cache")
    async with collecting() as collector, tracing_to(collector.address) as tracer:
        make_span(tracer)
        assert (await collector.call(CALL)).service == "shop-cache"


async def test_without_opentelemetry_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["opentelemetry"] = None\n')
    settings = {
        "CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1",
        "CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://nobody@127.0.0.1:1/none",
        "CACHE_SIDECAR_LISTEN_ADDRESS": "127.0.0.1:0",
        "CACHE_SIDECAR_TRACE_ENDPOINT": "127.0.0.1:1",
        "PYTHONPATH": str(tmp_path),
    }
    code, _, err = await command("serve", **settings)
    assert (code, err) == (64, "cache-sidecar: trace_endpoint requires OpenTelemetry: pip install 'cache-sidecar[otel]'\n")
