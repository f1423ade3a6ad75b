"""The webhook as a process: real TLS, real HTTP, and callers that mean no good."""

import asyncio
import json
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import config, process
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Process
from tests.injector.reviews import POD, patched, review
from tests.injector.webhook import NAME, Webhook, injector, make_certificate, ready
from tests.support.free_ports import ChoosePorts
from tests.support.until import DEADLINE, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("injector")
    make_certificate(made, now=time.time())
    return made


@pytest.fixture(scope="module")
def authority(folder: Path) -> Path:
    return folder / "ca.crt"


@pytest.fixture(scope="module")
async def webhook(folder: Path, choose_ports: ChoosePorts) -> AsyncIterator[Webhook]:
    async with running(folder, choose_ports) as started:
        yield started


@pytest.fixture
async def quiet_webhook(folder: Path, choose_ports: ChoosePorts) -> AsyncIterator[Webhook]:
    """One whose log has no lines of other tests: of a kind that repeats, it would leave out some."""
    async with running(folder, choose_ports) as started:
        yield started


@asynccontextmanager
async def running(folder: Path, choose_ports: ChoosePorts) -> AsyncIterator[Webhook]:
    sections = {"": {"kubernetes_version": "1.34"}, "api": {"ca_file": str(folder / "ca.crt")}}
    async with injector(folder, choose_ports(2), **sections) as started:
        await ready(started)
        yield started


async def test_a_pod_gets_its_sidecar(webhook: Webhook, authority: Path) -> None:
    answer = await webhook.ask(review(), authority)
    assert patched(answer)["spec"]["initContainers"][0]["name"] == "cache-sidecar"
    status, body = await webhook.send(json.dumps(review()).encode(), authority, "/inject/pod")
    assert (status, json.loads(body)["response"]["auditAnnotations"]) == (200, {"skipped": "not_enabled"})


HOSTILE = [
    (b"", 400),
    (b"\x00" * 100, 400),
    (b"{", 400),
    (b"[" * 200_000, 400),
    (b'{"a":' * 100_000, 400),
    (b'{"kind": "AdmissionReview", "kind": 5}', 400),
    (b"5" * 100_000, 400),
    (b"1e999999", 400),
    (b"NaN", 400),
    (b'"\\ud800"', 400),
    (b"x" * (3 * 1024 * 1024 + 1), 413),
    (json.dumps(review(uid={"a": 1})).encode(), 400),
    (json.dumps(review(namespace="shop/pods/web/eviction")).encode(), 400),
    (json.dumps(review(namespace="a\nb\ud800")).encode(), 400),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_what_is_no_review_gets_an_error(webhook: Webhook, authority: Path, number: int) -> None:
    body, expected = HOSTILE[number]
    status, text = await webhook.send(body, authority)
    assert status == expected
    assert text.count(b"\n") == 1
    assert b"Traceback" not in text


MALICIOUS: list[Any] = [
    {"metadata": {"annotations": {"cache-sidecar.io/policy": "a = 1\n" * 50_000}}, "spec": {"containers": [{"name": "a"}]}},
    {"metadata": {"annotations": {"cache-sidecar.io/image": "a/" * 100_000}}, "spec": {"containers": [{"name": "a"}]}},
    {"metadata": {"annotations": {"cache-sidecar.io/image": "a" + "-" * 100_000}}, "spec": {"containers": [{"name": "a"}]}},
    {"metadata": {"annotations": {"cache-sidecar.io/l1-size": "9" * 10_000}}, "spec": {"containers": [{"name": "a"}]}},
    {"metadata": {"annotations": {"cache-sidecar.io/" + "x" * 10_000: ""}}, "spec": {"containers": [{"name": "a"}]}},
    {
        "metadata": {"annotations": {"cache-sidecar.io/port": "\u0665\u0660\u0660\u0665\u0661"}},
        "spec": {"containers": [{"name": "a"}]},
    },
    {"metadata": {"labels": {"cache-sidecar.io/inject": "\ud800"}}, "spec": {"containers": [{"name": "a"}]}},
    {"spec": {"containers": [{"name": "a", "env": [None]}]}},
]


@pytest.mark.parametrize("number", range(len(MALICIOUS)))
async def test_a_malicious_pod_is_denied_with_a_line(webhook: Webhook, authority: Path, number: int) -> None:
    answer = await webhook.ask(review(MALICIOUS[number]), authority)
    assert answer["response"]["allowed"] is False
    message = answer["response"]["status"]["message"]
    assert "\n" not in message
    assert len(message) < 1000


async def test_a_huge_pod_is_injected(webhook: Webhook, authority: Path) -> None:
    containers = [{"name": f"c{number}", "image": "i", "env": [{"name": "A", "value": "x" * 1000}]} for number in range(1000)]
    pod = POD | {"spec": {"containers": containers}}
    assert len(patched(await webhook.ask(review(pod), authority), pod)["spec"]["containers"]) == 1000


async def test_callers_that_stall_or_speak_no_tls_keep_nobody_waiting(quiet_webhook: Webhook, authority: Path) -> None:
    stalled = [socket.create_connection(("127.0.0.1", quiet_webhook.port)) for _ in range(100)]
    for connection in stalled[:50]:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    tls = ssl.create_default_context(cafile=authority)
    reader, writer = await asyncio.open_connection("127.0.0.1", quiet_webhook.port, ssl=tls, server_hostname=NAME)
    writer.write(b"POST /inject/namespace HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    _, nonsense = await asyncio.open_connection("127.0.0.1", quiet_webhook.port, ssl=tls, server_hostname=NAME)
    nonsense.write(b"\xff\x00 nonsense\r\n\r\n" + b"x" * 100_000)
    nonsense.close()
    assert (await quiet_webhook.ask(review(), authority))["response"]["allowed"]
    for connection in stalled:
        connection.close()
    writer.close()
    # The other one if all this took so long that the webhook has given up.
    ends = ("the body is incomplete", "the body did not arrive in time")
    await until(lambda: any(end in quiet_webhook.log.read_text() for end in ends))


async def test_other_paths_and_methods_are_refused(webhook: Webhook, authority: Path) -> None:
    assert (await webhook.send(b"{}", authority, "/mutate"))[0] == 404
    tls = ssl.create_default_context(cafile=authority)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{webhook.port}/inject/pod", ssl=tls, server_hostname=NAME) as reply,
    ):
        assert reply.status == 405


async def test_what_kubernetes_and_prometheus_ask(webhook: Webhook, authority: Path) -> None:
    await webhook.ask(review(namespace="kube-system"), authority)
    assert await webhook.page("/healthz") == (200, "ok\n")
    status, text = await webhook.page("/metrics")
    assert status == 200
    found = {(one.name, *one.labels.values()): one.value for family in parse_text(text) for one in family.samples}
    assert found["cache_sidecar_injector_admissions_total", "skipped", "system_namespace"] >= 1
    assert found["cache_sidecar_injector_admission_seconds_count",] >= 1
    assert found["cache_sidecar_certificate_not_after_seconds", "webhook"] > time.time()


async def test_prometheus_reads_every_metric_of_the_list(webhook: Webhook, authority: Path) -> None:
    await webhook.ask(review(), authority)
    _, text = await webhook.page("/metrics", accept="application/openmetrics-text")
    found = {family.name for family in parse_openmetrics(text)}
    listed = {metric.name for metric in definitions.of(Process.INJECTOR)}
    # What has not happened yet, and what a process without a container lacks.
    absent = {
        definitions.INJECTOR_FAILURES,
        definitions.PODS_MISSING,
        definitions.POD_EVICTIONS,
        definitions.MEMORY_LIMIT,
        definitions.MEMORY_USED,
    }
    assert found <= listed
    assert listed - found <= {metric.name for metric in absent}


async def test_it_has_crashed_nowhere(webhook: Webhook) -> None:
    assert "Traceback" not in webhook.log.read_text()


async def test_new_certificates_are_used_without_a_restart_and_bad_ones_are_not(
    tmp_path: Path, choose_ports: ChoosePorts
) -> None:
    sections: dict[str, Any] = {
        "": {"kubernetes_version": "1.34"},
        "api": {"ca_file": str(tmp_path / "ca.crt")},
        "certificates": {"refresh": 0.1},
    }
    make_certificate(tmp_path, now=time.time())
    (tmp_path / "tls.crt").rename(tmp_path / "later.crt")
    first, second = tmp_path / "first.crt", tmp_path / "ca.crt"
    first.write_bytes(second.read_bytes())
    async with injector(tmp_path, choose_ports(2), **sections) as webhook:
        await until(lambda: "cannot read the certificate: " in webhook.log.read_text())
        assert await webhook.page("/readyz") == (503, "no certificate yet\n")
        (tmp_path / "later.crt").rename(tmp_path / "tls.crt")
        await ready(webhook)
        assert (await webhook.ask(review(), first))["response"]["allowed"]

        key = (tmp_path / "tls.key").read_bytes()
        make_certificate(tmp_path, now=time.time())
        renewed_key = (tmp_path / "tls.key").read_bytes()
        (tmp_path / "tls.key").write_bytes(key)
        await until(lambda: "invalid certificate or key" in webhook.log.read_text())
        assert (await webhook.ask(review(), first))["response"]["allowed"]

        (tmp_path / "tls.key").write_bytes(renewed_key)

        async def is_renewed() -> bool:
            try:
                return (await webhook.ask(review(), second))["response"]["allowed"]
            except aiohttp.ClientConnectorCertificateError:
                return False

        await until(is_renewed)
        assert 'failures_total{work="certificates"}' in (await webhook.page("/metrics"))[1]
        webhook.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(webhook.process.wait(), DEADLINE) == 0
        assert "Traceback" not in webhook.log.read_text()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[server]\nlisten = "nonsense"', "server.listen: 'nonsense' must be host:port"),
        ("[server]\nport = 5", "unknown key server.port; known keys: listen, web, "),
        ('[api]\nurl = "http://x"', "api.url: 'http://x' must be a URL such as https://"),
        ('[api]\nca_file = "/nowhere"', "api.ca_file: cannot read /nowhere: No such file or directory"),
        ('[api]\nca_file = "CA"', "server.namespace is not set, and /var/run/secrets/"),
        ('[server]\nnamespace = "x"\nweb = "127.0.0.1:TAKEN"\n[api]\nca_file = "CA"', "cannot listen on 127.0.0.1:"),
    ],
)
async def test_what_is_wrong_with_its_configuration_is_a_sentence(tmp_path: Path, folder: Path, text: str, line: str) -> None:
    file = tmp_path / "injector.toml"
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as taken:
        port = str(taken.sockets[0].getsockname()[1])
        file.write_text(text.replace("CA", str(folder / "ca.crt")).replace("TAKEN", port))
        with pytest.raises(SettingsError) as raised:
            await process.run(config.load(str(file)), asyncio.Event())
    assert line in str(raised.value)
