"""Sidecars that the client libraries call: one for each engine, with each way to reach it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.clients.examples import forget_first
from tests.clients.faults import Proxy, in_front_of
from tests.fix_postgres import copy_of
from tests.interop.test_service_config import Serving
from tests.support.authority import Authority
from tests.support.engine_params import ENGINES
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process, publishes, serving
from tests.support.tokens import secret_file, token
from tests.support.until import until

CLIENT = "spiffe://shop/app"


class Place(NamedTuple):
    """A sidecar, as programs are told of it."""

    environment: dict[str, str]
    config: dict[str, Any]


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that answers the calls: every test runs on each."""
    return str(request.param)


@contextlib.asynccontextmanager
async def relay_of(config: dict[str, Any], folder: Path) -> AsyncIterator[None]:
    """Runs the relay that sidecars with these settings need."""
    kept = ("redis_nodes", "postgres_catalog", "namespace")
    async with process("relay", folder, {key: config[key] for key in kept}) as relay:
        await until(lambda: publishes(relay.log))
        yield


@pytest.fixture(scope="package")
async def places(
    valkey_cluster: ValkeyCluster,
    postgres: Postgres,
    template: str,
    choose_ports: ChoosePorts,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> AsyncIterator[dict[str, Place]]:
    """By transport: one sidecar on TCP and a socket, and one with mutual TLS and tokens; both on one database."""
    folder = tmp_path_factory.mktemp("clients")
    stack = contextlib.AsyncExitStack()
    plain, tls = choose_ports(2)
    common = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": await stack.enter_async_context(copy_of(template, postgres)),
        "namespace": f"clients_{engine}",
        "engine": engine,
        "local_admin": True,
        "redis_timeout": 5.0,
        "postgres_timeout": 20.0,
    }
    authority = Authority()
    files = {"ca": authority.cert, "server": authority.server(), "client": authority.client(CLIENT)}
    (folder / "ca.pem").write_bytes(authority.cert)
    for name in ("server", "client"):
        pair = files[name]
        (folder / f"{name}.pem").write_bytes(pair.cert)
        secret_file(folder / f"{name}.key", pair.key)
    secret_file(folder / "tokens", f"shop app,admin {token('shop')}\n")
    secret_file(folder / "token", token("shop"))
    socket = {"listen_address": f"127.0.0.1:{plain}", "listen_socket": str(folder / "s.sock")}
    secure = {
        "listen_address": f"127.0.0.1:{tls}",
        "listen_tls_cert": str(folder / "server.pem"),
        "listen_tls_key": str(folder / "server.key"),
        "listen_tls_client_ca": str(folder / "ca.pem"),
        "allowed_clients": f"{CLIENT} app+admin",
        "access_tokens_file": str(folder / "tokens"),
    }
    tls_environment = {
        "CONFORMANCE_ADDRESS": secure["listen_address"],
        "CONFORMANCE_CA": str(folder / "ca.pem"),
        "CONFORMANCE_CERT": str(folder / "client.pem"),
        "CONFORMANCE_KEY": str(folder / "client.key"),
        "CONFORMANCE_SERVER_NAME": "localhost",
        "CONFORMANCE_TOKEN_FILE": str(folder / "token"),
    }
    async with (
        stack,
        relay_of(common, folder),
        process("serve", folder, common | socket),
        process("serve", folder, common | secure) as secured,
        in_front_of(socket["listen_address"]) as proxy,
    ):
        await serving(socket["listen_address"])
        await until(lambda: '"serving"' in secured.log.read_text())
        yield {
            "tcp": Place(_through(proxy) | {"CONFORMANCE_ADDRESS": socket["listen_address"]}, common | socket),
            "unix": Place(_through(proxy) | {"CONFORMANCE_ADDRESS": f"unix:{socket['listen_socket']}"}, common | socket),
            "tls": Place(_through(proxy) | tls_environment, common | secure),
        }


def _through(proxy: Proxy) -> dict[str, str]:
    return {"CONFORMANCE_FAULTS": proxy.address, "CONFORMANCE_FAULTS_URL": proxy.url}


@pytest.fixture
async def first_address(places: dict[str, Place]) -> str:
    """The address of a sidecar that has nothing of what the first programs of the libraries' pages make: a mug, and ada's cart."""
    address = places["tcp"].environment["CONFORMANCE_ADDRESS"]
    await forget_first(address)
    return address


@pytest.fixture
async def sidecar(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, choose_ports: ChoosePorts, tmp_path: Path, engine: str
) -> AsyncIterator[Serving]:
    """A sidecar that can be killed, and its relay."""
    config = {
        "listen_address": f"127.0.0.1:{choose_ports(1)[0]}",
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
        "engine": engine,
        "postgres_timeout": 60.0,
        "redis_timeout": 5.0,
    }
    served = Serving(tmp_path, config)
    async with relay_of(config, tmp_path):
        await served.start()
        try:
            yield served
        finally:
            await served.close()
