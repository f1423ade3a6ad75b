"""The webhook as the API server sees it: called again after others, and with certificates that change under it."""

import asyncio
import base64
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.injector.api import Api
from cache_sidecar.injector.certificates import SETTLING, renew
from cache_sidecar.injector.config import InjectorConfig
from cache_sidecar.injector.process import Injector
from tests.e2e.cluster import Cluster
from tests.e2e.installed import ENABLED, INJECTOR, NAMESPACE, WEBHOOKS, Installed, has_sidecar, pod
from tests.e2e.mesh import mesh
from tests.e2e.versions import newest_only
from tests.injector.webhook import NAME, Webhook, make_certificate
from tests.support.clocks import ManualClock
from tests.support.until import until

pytestmark = pytest.mark.timeout(300)

DAY = 86400.0
LIFETIME = 30 * DAY
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


async def admissions(webhook: Webhook) -> int:
    _, text = await webhook.page("/metrics")
    return sum(int(float(count)) for count in re.findall(r'admissions_total\{outcome="injected".*\} (\S+)', text))


@newest_only
async def test_a_container_that_another_webhook_adds_has_the_address_too(
    kube: Cluster, installed: Installed, tmp_path: Path
) -> None:
    await kube.namespace("meshed", ENABLED)
    labels = {"e2e/mesh": "enabled"}
    async with installed.running() as webhook, mesh(kube, tmp_path, labels):
        await installed.seen()
        before = await admissions(webhook)
        made = await kube.api.create("/api/v1/namespaces/meshed/pods", pod(labels=labels))
        assert await admissions(webhook) == before + 2
    web, added = made["spec"]["containers"]
    assert added["name"] == "mesh"
    for container in (web, added):
        assert {variable["name"] for variable in container["env"]} >= {"CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET"}
    assert [container["name"] for container in made["spec"]["initContainers"]] == ["cache-sidecar"]


@newest_only
async def test_with_cert_manager_it_has_no_right_to_a_secret(kube: Cluster, installed: Installed, tmp_path: Path) -> None:
    for kind in ("Certificate", "Issuer"):
        await _define(kube, kind)
    await installed.apply("dev", "cert-manager", "evict")
    try:
        account = f"system:serviceaccount:{NAMESPACE}:{INJECTOR}"
        assert (await kube.run("auth", "can-i", "get", "secrets", "-n", NAMESPACE, "--as", account)).out == "no\n"
        assert (await installed.sections())["reconciler"]["mode"] == "evict", "the components go together"
        # What cert-manager does: it makes the certificate, and tells the API server whom to trust.
        material = make_certificate(tmp_path, now=time.time())
        bundle = base64.b64encode(material.bundle).decode()
        patch = [{"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle} for index in (0, 1)]
        await kube.api.patch(f"{WEBHOOKS}/{INJECTOR}", patch)
        files = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
        async with installed.running(certificates=files) as webhook:
            assert "failures_total{" not in (await webhook.page("/metrics"))[1]
    finally:
        await installed.reset()


@newest_only
async def test_the_api_server_presents_the_client_certificate_that_it_was_given(kube: Cluster, installed: Installed) -> None:
    await installed.apply("dev", "client-certificate")
    try:
        assert (await installed.sections())["server"]["allowed_clients"] == ("kube-apiserver",)
        clients = {"client_ca_file": str(kube.folder / "webhook-ca.crt")}
        async with installed.running(server=clients) as webhook:
            assert await admissions(webhook)
            assert 'outcome="error"' not in (await webhook.page("/metrics"))[1]
            assert await _greet(installed) == b"", "without a certificate, the connection is closed"
    finally:
        await installed.reset()


async def _greet(installed: Installed) -> bytes:
    """Returns the answer to a request without a client certificate, nothing if the connection is closed."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(installed.address, installed.port, ssl=tls, server_hostname=NAME)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.read(100)
    except (ssl.SSLError, ConnectionError):
        return b""
    finally:
        writer.transport.abort()


async def _define(kube: Cluster, kind: str) -> None:
    """Makes a kind of cert-manager's known, whatever its objects hold."""
    names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    name = f"{names['plural']}.cert-manager.io"
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    versions = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
    spec = {"group": "cert-manager.io", "names": names, "scope": "Namespaced", "versions": versions}
    await kube.api.create(path, {"metadata": {"name": name}, "spec": spec})

    async def is_served() -> bool:
        with contextlib.suppress(SidecarError):
            await kube.api.get(f"/apis/cert-manager.io/v1/{names['plural']}")
            return True
        return False

    await until(is_served)


class Pods:
    """Pods that are made all the time."""

    def __init__(self, kube: Cluster, namespace: str) -> None:
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._kube = kube
        self.made = 0

    async def make(self) -> None:
        """Makes some at once, so that there are new connections as well, until it is cancelled."""
        while True:
            names = [f"web-{self.made + number}" for number in range(5)]
            for stored in await asyncio.gather(*(self._kube.api.create(self._path, pod(name)) for name in names)):
                assert has_sidecar(stored)
            self.made += len(names)

    async def more(self, making: "asyncio.Task[None]") -> None:
        """Waits until some were made from first to last after this call."""
        enough = self.made + 20
        await until(lambda: making.done() or self.made >= enough)
        if making.done():
            making.result()


@newest_only
async def test_certificates_change_while_pods_are_made(kube: Cluster, installed: Installed) -> None:
    await kube.namespace("rotated", ENABLED)
    await installed.apply("ha")  # with Fail, a pod that finds the webhook untrusted is refused
    try:
        await _rotate(kube, installed)
    finally:
        await installed.reset()


async def _rotate(kube: Cluster, installed: Installed) -> None:
    # It ends shortly before the present, as the API server goes by the real time.
    clock = ManualClock(time.time() - 20 * DAY - 2 * SETTLING)
    await _put_an_old_authority(kube, clock.now())
    async with _in_this_process(installed, clock):
        await until(installed.is_in_force)
        first = await _shown(installed)
        pods = Pods(kube, "rotated")
        making = asyncio.ensure_future(pods.make())
        try:
            await pods.more(making)
            # The certificate is due, and so is its authority: a new one is announced, and the old one signs once more.
            clock.advance(20 * DAY)
            await until(lambda: _differs(installed, first))
            second = await _shown(installed)
            assert len(await _trusted(kube)) == 2
            await pods.more(making)
            await installed.seen()
            # All have heard of the new authority by now: it signs.
            clock.advance(SETTLING + 1)
            await until(lambda: _differs(installed, second))
            await pods.more(making)
        finally:
            making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await making
        # Whoever trusts the API server's new authority only trusts what is shown.
        old, new = await _trusted(kube)
        await _shown(installed, trusting=new)
        await until(installed.is_in_force)


async def _put_an_old_authority(kube: Cluster, now: float) -> None:
    """Puts a Secret there, as an injector would have left it that has run for the whole life of an authority."""
    names = [NAME, f"{NAME}.cluster.local"]
    material = renew(None, names, now=now - 221 * DAY, lifetime=LIFETIME)
    material = renew(material, names, now=now, lifetime=LIFETIME)
    assert len(material.authorities) == 1, "it is not due yet"
    await kube.delete(f"{SECRETS}/{INJECTOR}-tls")
    data = {name: base64.b64encode(value).decode() for name, value in material.to_secret().items()}
    await kube.api.create(SECRETS, {"metadata": {"name": f"{INJECTOR}-tls"}, "data": data})


@contextlib.asynccontextmanager
async def _in_this_process(installed: Installed, clock: ManualClock) -> AsyncIterator[None]:
    """Runs the injector with a clock that the test moves."""
    sections = await installed.sections()
    values = sections.pop("") | sections
    values["certificates"] |= {"refresh": 0.1, "lifetime": LIFETIME}
    values["reconciler"] = {"mode": "off"}
    config = InjectorConfig.model_validate(values)
    stop = asyncio.Event()
    async with Api(config.api) as api:
        running = asyncio.ensure_future(Injector(config, api, clock=clock).run(stop))
        try:
            yield
        finally:
            stop.set()
            await running


async def _shown(installed: Installed, *, trusting: str = "") -> bytes | None:
    """Returns the certificate that a new connection is shown; with `trusting`, only when that authority signed it."""
    tls = ssl.create_default_context(cadata=trusting or None)
    if not trusting:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(installed.address, installed.port, ssl=tls, server_hostname=NAME)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return shown


async def _differs(installed: Installed, before: bytes | None) -> bool:
    return await _shown(installed) != before


async def _trusted(kube: Cluster) -> list[str]:
    """Returns the authorities that the API server is told to trust."""
    found = await kube.api.get(f"{WEBHOOKS}/{INJECTOR}")
    (bundle,) = {webhook["clientConfig"]["caBundle"] for webhook in found["webhooks"]}
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in base64.b64decode(bundle).decode().split(end)[:-1]]
