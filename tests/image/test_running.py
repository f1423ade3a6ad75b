"""The image that `make image` built, against the servers of `cache-sidecar dev`.

`make image-test` runs it; elsewhere it is skipped, as it needs docker or podman, and an image that was just built.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cache_sidecar.core.container_memory import l1_bytes
from cache_sidecar.devstack.catalogue import FIRST_PRODUCT_ID
from cache_sidecar.v1 import admin_service_pb2, admin_service_pb2_grpc, product_service_pb2, product_service_pb2_grpc
from tests.image.container import MEMORY, container
from tests.injector.manifests import K8S
from tests.injector.reviews import patched, review
from tests.injector.webhook import Webhook, make_certificate
from tests.support.free_ports import ChoosePorts
from tests.support.launch import without_retries
from tests.support.until import until

pytestmark = [
    pytest.mark.timeout(900),  # two cores may be busy
    pytest.mark.skipif("IMAGE_DIST" not in os.environ, reason="no image was built: 'make image-test' does that"),
]

ROOT = K8S.parent
# No API server, which only the reconciler and Events need.
CONFIG = """
kubernetes_version = "1.34"
[server]
listen = "127.0.0.1:{port}"
web = "127.0.0.1:{web}"
namespace = "cache-sidecar"
[certificates]
source = "files"
cert_file = "{folder}/tls.crt"
key_file = "{folder}/tls.key"
[api]
url = "https://127.0.0.1:1"
ca_file = "{folder}/ca.crt"
token_file = "{folder}/tls.key"
[reconciler]
mode = "off"
"""
PYTHON = "/opt/cache-sidecar/bin/python"
_SEEN = """
import json, os
files = {os.path.join(at, name) for at, _, names in os.walk("/") if not at.startswith(("/proc", "/sys", "/dev")) for name in names}
def is_refused(folder):
    try:
        open(os.path.join(folder, "new"), "w")
    except OSError:
        return True
places = ["/", "/tmp", "/var/tmp", "/opt/cache-sidecar", "/usr/lib"]
print(json.dumps({
    "user": os.getuid(),
    "programs": sorted(each for each in files if os.path.dirname(each).endswith("bin") and not os.path.islink(each)),
    "ours": sum(os.lstat(each).st_size for each in files if each.startswith("/opt")),
    "writable": [place for place in places if not is_refused(place)],
}))
"""


@pytest.fixture(scope="module", params=["65532:65532", "of a namespace"])
def user(request: pytest.FixtureRequest) -> str:
    """The image's own, and one that OpenShift would choose: of no name, in the group 0."""
    return f"{random.randrange(10**9, 2 * 10**9)}:0" if request.param == "of a namespace" else request.param


@pytest.fixture(scope="module")
async def stack(choose_ports: ChoosePorts) -> AsyncIterator[dict[str, Any]]:
    """Runs servers with products, a sidecar and a relay; returns dev.json."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's user has to get through
        state = Path(folder) / "dev"
        command = [sys.executable, "-m", "cache_sidecar", "dev", "--state", str(state), "--products", "100"]
        command += ["--listen", f"127.0.0.1:{choose_ports(1)[0]}"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, env=os.environ)
        try:
            await until(lambda: process.returncode is not None or (state / "dev.json").exists())
            yield json.loads((state / "dev.json").read_text())
        finally:
            process.terminate()
            await process.wait()


def settings(stack: dict[str, Any]) -> dict[str, str]:
    nodes = [node["address"] for node in stack["redis"]]
    return {"redis_nodes": ",".join(nodes), "postgres_catalog": stack["databases"]["catalog"], "local_admin": "true"}


def test_another_build_has_the_same_digest(tmp_path: Path) -> None:
    """The wheel is the same, in another place and with another time."""
    built, wheels = Path(os.environ["IMAGE_DIST"]), tmp_path / "wheels"
    wheels.mkdir()
    for wheel in built.glob("*.whl"):
        shutil.copyfile(wheel, wheels / wheel.name)
    subprocess.run([sys.executable, K8S / "image" / "build.py", "--wheels", wheels, "--to", tmp_path], check=True)
    (again,) = tmp_path.glob("*.oci.tar")
    assert _digest(again) == _digest(built / again.name)


def _digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index
        return json.load(index)["manifests"][0]["digest"]


async def test_it_has_python_and_the_program_and_nothing_else(user: str) -> None:
    async with container("-c", _SEEN, user=user, entrypoint=PYTHON) as looking:
        assert await looking.code() == 0, await looking.log()
        seen = json.loads(await looking.log())
    assert seen["user"] == int(user.partition(":")[0])
    assert seen["writable"] == []
    assert seen["ours"] < 120e6
    ours = {f"/opt/cache-sidecar/bin/{name}" for name in ("cache-sidecar", "cache-sidecar-probe", "kubectl-cache_sidecar")}
    assert set(seen["programs"]) == ours | {"/usr/bin/python3.13"}


async def test_a_sidecar_with_its_relay(stack: dict[str, Any], user: str, choose_ports: ChoosePorts) -> None:
    (port,) = choose_ports(1)
    address = f"127.0.0.1:{port}"
    common = settings(stack)
    async with container("migrate", user=user, **common) as migration:
        assert await migration.code() == 0, await migration.log()
    async with (
        container("relay", user=user, web_address="", **common) as relay,
        container(user=user, listen_address=address, web_address="", **common) as sidecar,
    ):
        await until(lambda: sidecar.runs(lambda: sidecar.is_serving(address)))
        async with without_retries(address) as channel:
            stub = product_service_pb2_grpc.ProductServiceStub(channel)
            reply = await stub.GetProduct(product_service_pb2.GetProductRequest(product_id=FIRST_PRODUCT_ID))
            assert reply.product.title
            stats = await admin_service_pb2_grpc.AdminServiceStub(channel).GetStats(admin_service_pb2.GetStatsRequest())
        assert stats.sidecar.engine.startswith("native")
        # Less a byte, as the datasets share it.
        assert l1_bytes(MEMORY) - 16 < stats.sidecar.l1_max_bytes <= l1_bytes(MEMORY), "it knows its limit of memory"
        assert await relay.terminate() == 0, await relay.log()
        assert await sidecar.terminate() == 0, await sidecar.log()


async def test_it_refuses_wrong_settings_as_the_program_does(user: str) -> None:
    async with container(user=user, listen_address="nowhere") as sidecar:
        assert await sidecar.code() == 64
        assert "listen_address" in await sidecar.log()


async def test_the_injector(user: str, tmp_path: Path, choose_ports: ChoosePorts) -> None:
    port, web = choose_ports(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificate(folder, now=time.time())
        (folder / "injector.toml").write_text(CONFIG.format(port=port, web=web, folder=folder))
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        async with (
            container("injector", "--config", f"{name}/injector.toml", user=user, mount=name) as injector,
            aiohttp.ClientSession() as session,
        ):
            webhook = Webhook(port, web, None, tmp_path, session)  # type: ignore[arg-type]
            await until(lambda: injector.runs(webhook.is_ready))
            pod = patched(await webhook.ask(review(), folder / "ca.crt"))
            assert "cache-sidecar" in [each["name"] for each in pod["spec"]["initContainers"]]
            assert await injector.terminate() == 0, await injector.log()
