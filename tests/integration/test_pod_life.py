"""A pod's life on a node: the commands, probes and hooks that the injector writes, run in a kubelet's order, under load."""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.injector.apply import apply
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.container import NAME
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options
from tests.injector.manifests import K8S, rendered
from tests.support.databases import SIDECAR, as_role
from tests.support.free_ports import ChoosePorts
from tests.support.kubelet import Node, Pod
from tests.support.launch import PATIENT
from tests.support.shop import Open
from tests.support.until import DEADLINE, until

pytestmark = pytest.mark.timeout(600)

SHOP = K8S / "examples" / "shop"
VERSIONS = pytest.mark.parametrize("version", [(1, 28), (1, 37)], ids=["classic", "native"])


def injected(version: tuple[int, int], *, port: int, web: int, waits: bool) -> Pod:
    """Returns a pod of the example's Deployment with its sidecar; with `waits`, the application sleeps before it stops."""
    (template,) = [thing["spec"]["template"] for thing in rendered("shop") if thing["kind"] == "Deployment"]
    template["metadata"]["annotations"] = {"cache-sidecar.io/port": str(port), "cache-sidecar.io/secret": ""}
    (shop,) = template["spec"]["containers"]
    shop["command"][0] = sys.executable
    shop["env"] = [{"name": "PORT", "value": str(web)}, {"name": "CALL_TIMEOUT", "value": str(DEADLINE)}]
    if waits:
        shop["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "7"]}}}
    apply(template, consider(template, Place("shop", enabled=True), Options(), version).patch)
    return template


class Pods:
    """Pods, and the addresses to which a Service sends requests."""

    def __init__(self, version: tuple[int, int], settings: dict[str, str], choose_ports: ChoosePorts, folder: Path) -> None:
        self._version = version
        self._settings = settings
        self._choose_ports = choose_ports
        self._folder = folder
        self._nodes: list[Node] = []
        self.addresses: list[int] = []
        self.failures: list[str] = []
        self.answered = 0
        self.is_enough = False
        self._in_progress: Counter[int] = Counter()

    async def start(self, *, waits: bool = False) -> tuple[Node, int]:
        """Starts a pod; requests come to it once it is ready."""
        port, web = self._choose_ports(2)
        pod = injected(self._version, port=port, web=web, waits=waits)
        config_maps = {"cache-sidecar": self._settings}
        node = Node(pod, self._folder / str(len(self._nodes)), config_maps, volumes={"app": SHOP})
        self._nodes.append(node)
        await node.start()
        await until(lambda: self._is_ready(web))
        self.addresses.append(web)
        return node, web

    async def _is_ready(self, web: int) -> bool:
        with contextlib.suppress(OSError):
            return (await get(web, "/healthz")).startswith("HTTP/1.1 200 ")
        return False

    async def load(self) -> None:
        """Sends requests until the load is to end, each on a connection of its own."""
        while not self.is_enough:
            web = random.choice(self.addresses)
            self._in_progress[web] += 1
            try:
                answer = await get(web, "/products/mug")
            except OSError as error:
                self.failures.append(repr(error))
            else:
                self.answered += 1
                if not answer.startswith("HTTP/1.1 200 "):
                    self.failures.append(answer)
            finally:
                self._in_progress[web] -= 1

    async def remove(self, web: int) -> None:
        """Sends no more requests to a pod, and waits until those under way are answered: some may not have been accepted yet."""
        self.addresses.remove(web)
        await until(lambda: not self._in_progress[web])

    async def more(self) -> None:
        """Waits until some requests were sent and answered after this call."""
        enough = self.answered + 40
        await until(lambda: self.answered >= enough or self.failures)

    def kill(self) -> None:
        """Ends what still runs."""
        for node in self._nodes:
            node.kill()


async def get(web: int, path: str) -> str:
    """Returns the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).decode()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def pods(
    request: pytest.FixtureRequest,
    version: tuple[int, int],
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    open_shop: Open,
    choose_ports: ChoosePorts,
) -> AsyncIterator[Pods]:
    """No pods yet; there is a product `mug`."""
    async with open_shop() as shop:
        await shop.create("mug")
    settings = {
        "CACHE_SIDECAR_REDIS_NODES": ",".join(valkey_cluster.addresses),
        "CACHE_SIDECAR_POSTGRES_CATALOG": as_role(SIDECAR, database),
        "CACHE_SIDECAR_NAMESPACE": namespace,
        # The native engine refuses calls when Python hangs, which it seems to do on a machine that is busy enough.
        "CACHE_SIDECAR_ENGINE": "aio",
        **{f"CACHE_SIDECAR_{name.upper()}": str(value) for name, value in PATIENT.items()},
    }
    # Short, because it has sockets.
    folder = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))
    made = Pods(version, settings, choose_ports, folder)
    yield made
    made.kill()
    shutil.rmtree(folder)


@VERSIONS
async def test_the_application_starts_when_its_sidecar_serves_and_finishes_before_it(
    pods: Pods, version: tuple[int, int]
) -> None:
    is_native = version >= (1, 29)
    node, web = await pods.start()
    assert (await get(web, "/products/mug")).startswith("HTTP/1.1 200 "), "its first call"
    assert await node.lives(NAME)

    # A request whose first half the application has, while it is told to stop.
    reader, writer = await asyncio.open_connection("127.0.0.1", web)
    writer.write(b"GET /products/mug HTTP/1.1\r\nHost: shop\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.write(b"GET /products/mug HTTP/1.1\r\n")
    await writer.drain()
    stopping = asyncio.ensure_future(node.stop())
    await until(lambda: _is_closed(web))
    if not is_native:
        # Kubernetes stops both at once: the sidecar waits for the application.
        await until(lambda: node.slept == ["5"])
    assert node.runs(NAME)
    assert await node.lives(NAME)
    writer.write(b"Host: shop\r\nConnection: close\r\n\r\n")
    assert b"HTTP/1.1 200 " in await reader.read()
    writer.close()
    await until(lambda: not node.runs("shop"))
    assert node.slept == ([] if is_native else ["5"])
    node.wake()
    assert await stopping == {NAME: 0, "shop": 0}


async def _is_closed(web: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", web)
    except ConnectionError:
        return True
    writer.close()
    return False


@VERSIONS
async def test_no_request_fails_while_all_pods_are_replaced(pods: Pods, version: tuple[int, int]) -> None:
    # The application sleeps until no more requests come, as long as its sidecar is stopped after it.
    waits = version >= (1, 29)
    old = [await pods.start(waits=waits) for _ in range(2)]
    load = [asyncio.ensure_future(pods.load()) for _ in range(4)]
    try:
        for node, web in old:
            await pods.more()
            await pods.start(waits=waits)
            if waits:
                # The news of the pod's end comes late: until then, it answers.
                stopping = asyncio.ensure_future(node.stop())
                await until(lambda node=node: node.slept == ["7"])
                await pods.more()
                await pods.remove(web)
            else:
                await pods.remove(web)
                stopping = asyncio.ensure_future(node.stop())
            node.wake()
            assert await stopping == {NAME: 0, "shop": 0}
        await pods.more()
    finally:
        pods.is_enough = True
        await asyncio.gather(*load)
    assert pods.failures == []
