"""The examples in k8s, as far as they run without a kubelet: the stores as configured, all processes with their settings, the shop.

`valkey-cli`, with which a Job joins the nodes and the probe asks them, is in their image only.
"""

import asyncio
import os
import runpy
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from cache_sidecar import __version__
from cache_sidecar.config.settings import Settings
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.wheels import postgres_programs, valkey_server
from cache_sidecar.injector import apply
from cache_sidecar.injector.config import NEWEST
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.options import Options
from cache_sidecar.store.connection import split_password_file
from cache_sidecar.v1.product_service_pb2 import CreateProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.injector.manifests import K8S, Object, is_named, read, rendered
from tests.integration.test_cli import run as command
from tests.support.databases import run
from tests.support.free_ports import ChoosePorts
from tests.support.launch import Sidecar, in_process, process, publishes, settings_for
from tests.support.postgres_tls import PostgresTls
from tests.support.shop import product
from tests.support.tokens import secret_file
from tests.support.until import until

ROLES_OF_POSTGRESQL = ("shop_owner", "shop_cache", "shop_relay")
LAST_SLOT = 16383


def one(example: str, kind: str, name: str) -> Object:
    (found,) = [thing for thing in rendered(example) if is_named(thing, kind, name)]
    return found


@pytest.fixture
async def valkey_port(processes: Processes, choose_ports: ChoosePorts, tmp_path: Path) -> AsyncIterator[int]:
    """A node of the example's cluster, which owns all slots."""
    (port,) = choose_ports(1)
    configuration = one("redis-cluster", "ConfigMap", "valkey")["data"]["valkey.conf"]
    for place, here in (("/data", tmp_path), ("/etc/valkey-users", tmp_path)):
        assert place in configuration
        configuration = configuration.replace(place, str(here))
    (tmp_path / "valkey.conf").write_text(configuration)
    secret = one("redis-cluster", "Secret", "valkey")["stringData"]
    (tmp_path / "users.acl").write_text(secret["users.acl"])
    container = one("redis-cluster", "StatefulSet", "valkey")["spec"]["template"]["spec"]["containers"][0]
    places = {
        "/etc/valkey/valkey.conf": str(tmp_path / "valkey.conf"),
        "$(POD_NAME).valkey.stores.svc.cluster.local": "localhost",
        "$(REDISCLI_AUTH)": secret["admin-password"],
    }
    arguments = [places.get(argument, argument) for argument in container["args"]]
    command = [str(valkey_server()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    child = processes.start("example-valkey", command, directory=tmp_path)
    async with Redis(host="127.0.0.1", port=port, password=secret["admin-password"], decode_responses=True) as admin:

        async def answers() -> bool:
            assert child.running, child.last_line()
            try:
                return bool(await admin.ping())
            except RedisError:
                return False

        async def is_a_cluster() -> bool:
            return (await admin.execute_command("CLUSTER INFO"))["cluster_state"] == "ok"

        await until(answers)
        await admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, LAST_SLOT)
        await until(is_a_cluster)
    yield port
    await processes.stop([child])


class Stores:
    """Where the example's servers are in the tests."""

    def __init__(self, valkey_port: int, postgres: str, proxy: PostgresTls, certificates: list[Object], folder: Path) -> None:
        self.valkey_port = valkey_port
        self.postgres = postgres
        "The DSN of the example's database, with the superuser."
        self._proxy = proxy
        self._certificates = certificates
        self._folder = folder

    def environment(self, spec: Object, container: Object, namespace: str) -> dict[str, str]:
        """Returns the variables of a container as the example's ConfigMaps say, with its files in a folder of the test."""
        objects = [*rendered("shop"), *self._certificates]

        def one_of(kind: str, name: str) -> Object:
            (found,) = [
                thing for thing in objects if is_named(thing, kind, name) and thing["metadata"]["namespace"] == namespace
            ]
            return found

        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= one_of("ConfigMap", source["configMapRef"]["name"])["data"]
        found |= {entry["name"]: entry["value"] for entry in container.get("env", [])}
        secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
        for mount in container.get("volumeMounts", []):
            secret = secrets.get(mount["name"])
            if secret is None or (secret.get("optional") and secret["secretName"] == "redis-tls"):
                continue
            folder = self._folder / f"{namespace}-{secret['secretName']}"
            folder.mkdir(exist_ok=True)
            for key, content in one_of("Secret", secret["secretName"])["stringData"].items():
                secret_file(folder / key, content)
            found = {name: value.replace(mount["mountPath"], str(folder)) for name, value in found.items()}
        places = {
            "valkey-0.valkey.stores.svc.cluster.local:6379,valkey-1.valkey.stores.svc.cluster.local:6379": (
                f"127.0.0.1:{self.valkey_port}"
            ),
            # The name is checked all the same.
            "postgres.stores.svc.cluster.local:5432/shop": (
                f"postgres.stores.svc.cluster.local:{self._proxy.port}/{self.postgres.rpartition('/')[2]}?hostaddr=127.0.0.1"
            ),
        }
        for place, here in places.items():
            found = {name: value.replace(place, here) for name, value in found.items()}
        return found


@pytest.fixture
async def stores(valkey_port: int, postgres: Postgres, namespace: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """Valkey, and a database with the example's roles behind the example's certificate."""
    name = f"example_{namespace}"
    await run(postgres.dsn("postgres"), f"CREATE DATABASE {name}")
    stateful = one("postgres", "StatefulSet", "postgres")["spec"]["template"]["spec"]["containers"][0]
    passwords = one("postgres", "Secret", "postgres")["stringData"]
    environment = {
        entry["name"]: passwords[entry["valueFrom"]["secretKeyRef"]["key"]] for entry in stateful["env"] if "valueFrom" in entry
    }
    script = tmp_path / "roles.sql"
    script.write_text(one("postgres", "ConfigMap", "postgres")["data"]["roles.sql"])
    psql = postgres_programs(18) / "psql"
    # As the image calls it.
    command = [str(psql), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-d", postgres.dsn(name), "-f", str(script)]
    await asyncio.to_thread(subprocess.run, command, env=os.environ | environment, check=True, capture_output=True)
    certificate = ["sh", str(K8S / "examples" / "postgres" / "certificate.sh")]
    printed = await asyncio.to_thread(subprocess.run, certificate, check=True, capture_output=True, text=True)
    certificates = read(printed.stdout)
    (secret,) = [thing for thing in certificates if is_named(thing, "Secret", "postgres-tls")]
    for key, content in secret["stringData"].items():
        secret_file(tmp_path / key, content)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    async with PostgresTls(f"127.0.0.1:{postgres.port}", tls) as proxy:
        yield Stores(valkey_port, postgres.dsn(name), proxy, certificates, tmp_path)
    await run(postgres.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")
    for role in ROLES_OF_POSTGRESQL:
        await run(postgres.dsn("postgres"), f"DROP ROLE {role}")


def workload(kind: str, name: str) -> tuple[Object, Object]:
    """Returns the pod of a workload in `base`, and its only container."""
    spec = one("base", kind, name)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def sidecar() -> tuple[Object, Object]:
    """Returns the shop's pod as the injector makes it, and the sidecar in it."""
    pod = one("shop", "Deployment", "shop")["spec"]["template"]
    apply.apply(pod, consider(pod, Place("shop", enabled=True), Options(), NEWEST).patch)
    (container,) = [one for one in pod["spec"]["initContainers"] if one["name"] == "cache-sidecar"]
    return pod["spec"], container


def settings_from(environment: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("CACHE_SIDECAR_").lower(): value for name, value in environment.items()}


async def test_the_example_runs_with_its_roles_and_checks_certificates(stores: Stores, tmp_path: Path) -> None:
    version = __version__.replace(".", "-")
    owner = stores.environment(*workload("Job", f"cache-sidecar-migrate-{version}"), "cache-sidecar")
    code, out, err = await command("migrate", **owner)
    assert (code, err) == (0, "")
    assert "granted shop_cache what it needs" in out
    assert "granted shop_relay what it needs" in out

    relay = settings_from(stores.environment(*workload("Deployment", "cache-sidecar-relay"), "cache-sidecar"))
    shop = settings_from(stores.environment(*sidecar(), "shop"))
    assert "redis_password" not in shop.keys() | relay.keys(), "passwords are in files"
    for values in (settings_from(owner), relay, shop):
        loaded = Settings(**{"redis_nodes": "127.0.0.1:1"} | values)  # type: ignore[arg-type]
        assert conninfo_to_dict(split_password_file(loaded.database("catalog"))[0])["sslmode"] == "verify-full"
    nodes, dsn = shop.pop("redis_nodes"), shop.pop("postgres_catalog")
    own = {"listen_address": "127.0.0.1:0", "listen_socket": "", "probe_socket": "", "policy_file": "", "redis_mode": "cluster"}
    settings = settings_for(nodes, dsn, "cs", **shop | own)
    # Its own port may be taken here.
    relay["web_address"] = "127.0.0.1:0"
    async with process("relay", tmp_path, relay) as relaying, in_process(settings, relay=False) as running:
        await until(lambda: publishes(relaying.log))
        await _serve_a_page(running)
        assert running.app is not None
        assert [one for one in running.app.failing_dependencies() if one.what == "postgresql"] == []
        users = await run(
            stores.postgres, "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = current_database()"
        )
        assert {user for (user,) in users} == {"shop_cache", "shop_relay", "postgres"}, "the last one asks"
        assert "permission denied" not in relaying.log.read_text()
    async with Redis(
        host="127.0.0.1",
        port=stores.valkey_port,
        username=shop["redis_username"],
        password=Path(shop["redis_password_file"]).read_text(),
    ) as sidecars:
        with pytest.raises(NoPermissionError):
            await sidecars.get("not-the-sidecars")

    # Under another name the server is refused, and does not get the password.
    elsewhere = owner | {
        "CACHE_SIDECAR_POSTGRES_CATALOG": owner["CACHE_SIDECAR_POSTGRES_CATALOG"].replace("stores.svc", "other")
    }
    code, _, err = await command("migrate", **elsewhere)
    assert (code, "does not match host name" in err) == (69, True), err
    # And it accepts no connection without TLS.
    plain = owner["CACHE_SIDECAR_POSTGRES_CATALOG"] + "&sslmode=disable"
    elsewhere = owner | {"CACHE_SIDECAR_POSTGRES_CATALOG": plain, "CACHE_SIDECAR_POSTGRES_TLS_CA": ""}
    assert (await command("migrate", **elsewhere))[0] == 69


def test_its_postgresql_accepts_only_tls() -> None:
    lines = one("postgres", "ConfigMap", "postgres")["data"]["pg_hba.conf"].splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    assert [(rule[0], rule[-1]) for rule in rules] == [("local", "scram-sha-256"), ("hostssl", "scram-sha-256")]
    container = one("postgres", "StatefulSet", "postgres")["spec"]["template"]["spec"]["containers"][0]
    assert {"ssl=on", "hba_file=/etc/postgresql/pg_hba.conf"} <= set(container["args"])


async def _serve_a_page(sidecar: Sidecar) -> None:
    created = CreateProductRequest(product=product("mug"))
    await sidecar.stub(ProductServiceStub).CreateProduct(created)
    program = runpy.run_path(str(K8S / "examples" / "shop" / "app.py"))
    page = program["serve"](sidecar.address, 0)
    serving = threading.Thread(target=page.serve_forever)
    serving.start()
    try:
        here = f"http://127.0.0.1:{page.server_port}"
        assert await asyncio.to_thread(_get, f"{here}/healthz") == (200, "ok\n")
        status, text = await asyncio.to_thread(_get, f"{here}/products/mug")
        assert (status, '"title": "A mug"' in text) == (200, True)
        assert (await asyncio.to_thread(_get, f"{here}/products/none"))[0] == 404
    finally:
        await asyncio.to_thread(page.shutdown)
        serving.join()
        page.server_close()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
