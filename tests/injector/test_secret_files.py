"""Secrets that annotations name: where they are mounted, which settings name their files, and that probes work with them."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from cache_sidecar.config.settings import Settings
from cache_sidecar.injector.config import NEWEST
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.container import NAME, VOLUMES
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.secret_files import list_secret_files
from tests.injector import cases
from tests.injector.cases import patched
from tests.injector.reviews import POD
from tests.support.authority import Authority
from tests.support.free_ports import ChoosePorts
from tests.support.tokens import token
from tests.support.until import DEADLINE, until

WITH_SECRETS = [
    "every_annotation",
    "files",
    "postgres_ca",
    "redis_tls",
    "tls_server",
    "tls_without_socket",
    "tokens",
]


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any]:
    everyone = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    (found,) = [container for container in everyone if container["name"] == NAME]
    return found


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_secrets_are_mounted_in_the_sidecar_only_and_can_be_read_but_not_written_there(name: str) -> None:
    pod = patched(cases.load(name))
    assert pod
    secrets = {volume["name"]: volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume}
    assert secrets
    assert secrets.keys() <= VOLUMES
    sidecar = sidecar_of(pod)
    mounted = {mount["name"]: mount for mount in sidecar["volumeMounts"]}
    for volume, secret in secrets.items():
        assert mounted[volume]["readOnly"] is True
        # Without fsGroup the files belong to root, and the sidecar is neither root nor in its group.
        assert secret["defaultMode"] == 0o444
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        if container is not sidecar:
            assert not {mount["name"] for mount in container.get("volumeMounts", [])} & secrets.keys()


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_every_setting_names_a_file_that_is_there(name: str) -> None:
    pod = patched(cases.load(name))
    assert pod
    sidecar = sidecar_of(pod)
    sources = {volume["name"]: volume.get("secret", {}) for volume in pod["spec"]["volumes"]}
    files = {
        f"{mount['mountPath']}/{item['path']}"
        for mount in sidecar["volumeMounts"]
        for item in sources[mount["name"]].get("items", [])
    }
    named = {variable["name"]: variable["value"] for variable in sidecar["env"]}
    assert {name.removeprefix("CACHE_SIDECAR_").lower() for name in named} <= Settings.model_fields.keys()
    settings = {value for value in named.values() if value.startswith("/etc/cache-sidecar/")}
    assert files == settings - {"/etc/cache-sidecar/policy/policy.toml"}, "no key that no setting names"


def test_the_cas_private_key_stays_out_of_the_pod() -> None:
    (files,) = list_secret_files(Options(postgres_ca_secret="ca"))
    assert files.volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_a_container_that_is_added_later_does_not_get_the_socket_for_probes() -> None:
    case = cases.load("tls_without_socket")
    pod = patched(case)
    assert pod
    pod["spec"]["containers"].append({"name": "late", "image": "mesh:1"})
    done = jsonpatch.apply_patch(pod, consider(pod, case.place, case.options, case.version).patch)
    late = done["spec"]["containers"][-1]
    assert [variable["name"] for variable in late["env"]] == ["CACHE_SIDECAR_ADDRESS"]
    assert "volumeMounts" not in late


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the path of a Unix socket in it has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cs-") as name:
        yield Path(name)


async def test_probes_work_with_mutual_tls_tokens_and_no_socket_for_the_application(
    choose_ports: ChoosePorts, folder: Path
) -> None:
    (port,) = choose_ports(1)
    options = Options(image="cache-sidecar:1", tls="mutual", socket="disabled", tokens_secret="tokens", port=str(port))
    sidecar = sidecar_of(
        jsonpatch.apply_patch(POD, consider(POD, Place("shop", enabled=True), options, NEWEST).patch),
    )
    authority = Authority()
    pair = authority.server("shop.cart.svc")
    _write(folder, {"tls/tls.crt": pair.cert, "tls/tls.key": pair.key, "tls/ca.crt": authority.cert})
    _write(folder, {"tokens/tokens": f"{token('a')}\n".encode(), "cache-sidecar-probe/.keep": b""})

    def local(text: str) -> str:
        return text.replace("/etc/cache-sidecar", str(folder)).replace("/run/", f"{folder}/")

    stores = {
        "CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1",
        "CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://shop@127.0.0.1:1/shop",
    }
    settings = {variable["name"]: local(variable["value"]) for variable in sidecar["env"]}
    log = folder / "log"
    with log.open("wb") as out:
        serving = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cache_sidecar", "serve"), stdout=out, stderr=out, env=os.environ | stores | settings
        )
    try:
        program, address = map(local, sidecar["livenessProbe"]["exec"]["command"])
        assert program == "cache-sidecar-probe"

        async def succeeds(target: str) -> bool:
            assert serving.returncode is None, log.read_text()
            probe = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", "from cache_sidecar.probe import main; main()", target),
                stderr=asyncio.subprocess.DEVNULL,
            )
            return await probe.wait() == 0

        await until(lambda: succeeds(address))
        assert not await succeeds(f"127.0.0.1:{port}"), "the port has TLS"
    finally:
        serving.terminate()
        await asyncio.wait_for(serving.wait(), DEADLINE)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o400)  # as on a read-only mount, whose mode does not count
