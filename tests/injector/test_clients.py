"""Client certificates: which ones the webhook accepts, as a process and by their names."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import config
from cache_sidecar.injector.clients import refusal
from cache_sidecar.injector.rotation import Served
from tests.injector.reviews import review
from tests.injector.webhook import NAME, Webhook, injector, make_certificate, ready
from tests.support.authority import Authority
from tests.support.free_ports import ChoosePorts
from tests.support.until import DEADLINE, until

BODY = json.dumps(review()).encode()
LATER = "Jan  1 00:00:00 2100 GMT"
PAST = "Jan  1 00:00:00 2001 GMT"


def put(folder: Path, name: str, authority: Authority, *names: str, common_name: str) -> Path:
    """Writes a client certificate with its key."""
    pair = authority.client(*names, common_name=common_name)
    (folder / name).write_bytes(pair.cert + pair.key)
    return folder / name


@pytest.fixture
async def webhook(tmp_path: Path, choose_ports: ChoosePorts) -> AsyncIterator[Webhook]:
    make_certificate(tmp_path, now=time.time())
    sections: dict[str, Any] = {
        "": {"kubernetes_version": "1.34"},
        "api": {"ca_file": str(tmp_path / "ca.crt")},
        "server": {"client_ca_file": str(tmp_path / "clients.crt"), "allowed_clients": ["kube-apiserver", "spiffe://k8s/api"]},
        "certificates": {"refresh": 0.1},
    }
    (tmp_path / "clients.crt").write_bytes(Authority().cert)
    async with injector(tmp_path, choose_ports(2), **sections) as started:
        await ready(started)
        yield started


async def test_only_the_api_server_may_send_reviews(webhook: Webhook, tmp_path: Path) -> None:
    ours, foreign = Authority("clients"), Authority("others")
    good = put(tmp_path, "good.pem", ours, common_name="kube-apiserver")
    (tmp_path / "clients.crt").write_bytes(ours.cert)
    trusted = tmp_path / "ca.crt"

    async def is_accepted(client: Path) -> bool:
        try:
            return (await webhook.send(BODY, trusted, client=client))[0] == 200
        except aiohttp.ClientError:
            return False

    await until(lambda: is_accepted(good))
    by_uri = put(tmp_path, "uri.pem", ours, "spiffe://k8s/api", common_name="other")
    assert (await webhook.send(BODY, trusted, client=by_uri))[0] == 200

    status, text = await webhook.send(BODY, trusted, client=put(tmp_path, "pod.pem", ours, "pod.shop", common_name="a pod"))
    assert (status, text) == (403, b"the client certificate of a pod, pod.shop is not in server.allowed_clients\n")
    for client in (None, put(tmp_path, "foreign.pem", foreign, common_name="kube-apiserver")):
        with pytest.raises(aiohttp.ClientError):
            await webhook.send(BODY, trusted, client=client)
    assert (await webhook.page("/healthz"))[0] == 200, "probes need no certificate"

    # Another CA applies without a restart, and the previous one no longer does. An invalid file changes nothing.
    (tmp_path / "clients.crt").write_bytes(foreign.cert)
    await until(lambda: is_accepted(tmp_path / "foreign.pem"))
    assert not await is_accepted(good)
    (tmp_path / "clients.crt").write_text("nonsense")
    await until(lambda: "server.client_ca_file: " in webhook.log.read_text())
    assert await is_accepted(tmp_path / "foreign.pem")
    assert "Traceback" not in webhook.log.read_text()


def reuses_session(port: int, tls: ssl.SSLContext) -> bool:
    """Returns whether a second connection resumes the session of the first. Raises OSError if one is refused."""
    session, is_reused = None, None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
            tls.wrap_socket(plain, server_hostname=NAME, session=session) as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if not connection.recv(100).startswith(b"HTTP/1.1 404 "):
                raise ConnectionResetError("the connection was closed")
            session, is_reused = connection.session, connection.session_reused
    return bool(is_reused)


async def test_no_session_is_resumed_past_the_check_of_the_certificate(webhook: Webhook, tmp_path: Path) -> None:
    ours = Authority("clients")
    tls = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    tls.load_cert_chain(put(tmp_path, "good.pem", ours, common_name="kube-apiserver"))
    (tmp_path / "clients.crt").write_bytes(ours.cert)

    async def was_reused() -> list[bool]:
        try:
            return [await asyncio.to_thread(reuses_session, webhook.port, tls)]
        except OSError:
            return []

    assert await until(was_reused) == [False]
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # which resumes sessions without tickets, too
    assert await was_reused() == []


def certificate(common_name: str = "kube-apiserver", *others: tuple[str, str], expires: str = LATER) -> dict[str, Any]:
    return {"subject": ((("commonName", common_name),),), "subjectAltName": others, "notAfter": expires}


@pytest.mark.parametrize(
    ("presented", "allowed", "expected"),
    [
        (certificate(), ["kube-apiserver"], ""),
        (certificate("x", ("DNS", "api.shop")), ["api.shop"], ""),
        (certificate("x", ("URI", "spiffe://shop/api")), ["spiffe://shop/api"], ""),
        (certificate(), [], ""),
        (None, [], "a client certificate is required"),
        (certificate(expires=PAST), [], "the client certificate has expired"),
        (certificate("spiffe://shop/api"), ["spiffe://shop/api"], "of spiffe://shop/api is not in server.allowed_clients"),
        (certificate("x", ("email", "kube-apiserver")), ["kube-apiserver"], "of x is not in server.allowed_clients"),
        (certificate("x", ("URI", "kube-apiserver")), ["kube-apiserver"], "of kube-apiserver, x is not in"),
    ],
)
def test_names(presented: dict[str, Any] | None, allowed: list[str], expected: str) -> None:
    found = refusal(presented, allowed, now=time.time())
    assert expected in found
    assert bool(found) == bool(expected)


def test_what_is_wrong_with_the_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^server.client_ca_file: cannot read /nowhere: No such file or directory$"):
        Served("/nowhere")
    for content in (b"", b"nonsense", b"\xff"):
        (tmp_path / "ca.crt").write_bytes(content)
        with pytest.raises(SettingsError, match=r"^server.client_ca_file: .* holds no certificate in PEM$"):
            Served(str(tmp_path / "ca.crt"))
    (tmp_path / "injector.toml").write_text('[server]\nallowed_clients = ["a"]')
    with pytest.raises(SettingsError, match="server: allowed_clients requires client_ca_file"):
        config.load(str(tmp_path / "injector.toml"))
