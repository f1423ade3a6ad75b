"""No output shows a secret: each secret setting gets a canary, and whatever is printed, logged or replied is searched for it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from psycopg import sql
from pydantic import SecretStr

from cache_sidecar.cli import cli
from cache_sidecar.config.settings import PREFIX, Settings
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import admin_service_pb2_grpc as admin_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1 import product_service_pb2_grpc as pb_grpc
from tests.support.canaries import Canary, shown
from tests.support.databases import SIDECAR, run
from tests.support.launch import publishes, serving
from tests.support.shop import product
from tests.support.tokens import secret_file
from tests.support.until import DEADLINE, until

# Settings that are secret, or name a file that is.
SECRETS = {
    name: Canary(name)
    for name in (
        "access_tokens_file",
        "listen_tls_key",
        "mongodb_uri",
        "postgres_analytics",
        "postgres_analytics_password_file",
        "postgres_catalog",
        "postgres_catalog_password_file",
        "postgres_user",
        "postgres_user_password_file",
        "quit_token_file",
        "recommendation_remote_tls_key",
        "redis_mac_keys_file",
        "redis_password",
        "redis_password_file",
        "redis_tls_key",
        "trace_tls_key",
    )
}
# All others. A new setting has to be added to one of the two.
PUBLIC = [
    "allowed_clients",
    "allowed_clients_file",
    "cart_max_items",
    "cart_max_quantity",
    "change_retention",
    "drain_seconds",
    "engine",
    "event_backlog",
    "event_max_age",
    "event_replicas",
    "event_retention",
    "keepalive_time",
    "keepalive_timeout",
    "l1_max_bytes",
    "l1_max_entries",
    "listen_address",
    "listen_insecurely",
    "listen_socket",
    "listen_socket_group",
    "listen_socket_mode",
    "listen_tls_cert",
    "listen_tls_client_ca",
    "listen_tls_client_crl",
    "local_admin",
    "log_format",
    "log_level",
    "max_concurrent_calls",
    "max_connection_age",
    "max_connection_age_grace",
    "max_connection_idle",
    "max_connection_streams",
    "max_connections",
    "max_dataset_calls",
    "max_message_bytes",
    "max_streams",
    "namespace",
    "policy_file",
    "postgres_pool_size",
    "postgres_prepare",
    "postgres_relay_role",
    "postgres_sidecar_role",
    "postgres_timeout",
    "postgres_tls_ca",
    "probe_socket",
    "quit_address",
    "recommendation_generators",
    "recommendation_remote_address",
    "recommendation_remote_timeout",
    "recommendation_remote_tls",
    "recommendation_remote_tls_ca",
    "recommendation_remote_tls_cert",
    "redis_mac_required",
    "redis_max_connections",
    "redis_mode",
    "redis_nodes",
    "redis_timeout",
    "redis_tls",
    "redis_tls_ca",
    "redis_tls_cert",
    "redis_tls_server_name",
    "redis_username",
    "region",
    "search_language",
    "trace_endpoint",
    "trace_ratio",
    "trace_tls",
    "trace_tls_ca",
    "trace_tls_cert",
    "web_address",
]
ALL = tuple(SECRETS.values())
NOWHERE = "127.0.0.1:1"
PRODUCTS = str(Path(__file__).parents[1] / "fixtures" / "products.csv")
# Commands that end by themselves.
COMMANDS = (
    ["config"],
    ["migrate"],
    ["verify"],
    ["user", "export", "ann"],
    ["user", "erase", "ann"],
    ["analytics", "top"],
    ["import", "products", PRODUCTS],
)
SERVERS = (["serve"], ["relay"])


def test_every_setting_is_in_one_of_the_lists() -> None:
    assert sorted([*SECRETS, *PUBLIC]) == sorted(Settings.model_fields)
    typed = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    named = {
        name
        for name in Settings.model_fields
        if name.endswith(("password", "password_file", "token_file", "tokens_file", "keys_file", "_key"))
    }
    assert typed | named == SECRETS.keys()


def test_a_canary_is_found_in_every_form() -> None:
    canary = SECRETS["redis_password"]
    for form in (canary.value, canary.encoded, repr(canary.value), json.dumps(canary.value), canary.value.encode().hex()):
        assert shown(f"before {form} after", *ALL) == ["redis_password"]
    for before in ("", "u:", "us:"):
        in_base64 = b64encode(f"{before}{canary.value}".encode()).decode()
        assert shown(in_base64, *ALL) == ["redis_password"]


def written(folder: Path, name: str, content: str) -> str:
    return str(secret_file(folder / name, content))


def in_uris(_: Path) -> dict[str, str]:
    return {
        "redis_password": SECRETS["redis_password"].value,
        "postgres_catalog": f"postgresql://shop:{SECRETS['postgres_catalog'].encoded}@{NOWHERE}/shop",
        "postgres_user": f"postgresql://shop:{SECRETS['postgres_user'].encoded.lower()}@{NOWHERE}/users",
        "postgres_analytics": f"postgresql://shop:{SECRETS['postgres_analytics'].encoded}@{NOWHERE}/events",
        "mongodb_uri": f"mongodb://shop:{SECRETS['mongodb_uri'].encoded}@{NOWHERE}/events",
    }


def in_options(_: Path) -> dict[str, str]:
    return in_uris(_) | {
        "postgres_catalog": f"postgresql://shop@{NOWHERE}/shop?password={SECRETS['postgres_catalog'].encoded}",
        "postgres_user": (
            f"postgresql://shop@{NOWHERE}/users?sslpassword={SECRETS['postgres_user'].encoded}&application_name=x"
        ),
    }


def in_files(folder: Path) -> dict[str, str]:
    files = {name: written(folder, name, SECRETS[name].value + "\n") for name in SECRETS if name.endswith("password_file")}
    return files | {
        "postgres_catalog": f"postgresql://shop@{NOWHERE}/shop",
        "postgres_user": f"postgresql://shop@{NOWHERE}/users",
        "postgres_analytics": f"postgresql://shop@{NOWHERE}/events",
        "quit_token_file": written(folder, "quit", SECRETS["quit_token_file"].token),
        "redis_mac_keys_file": written(folder, "keys", SECRETS["redis_mac_keys_file"].token + "-and-more"),
        "access_tokens_file": written(folder, "tokens", f"ops admin {SECRETS['access_tokens_file'].token}\n"),
    }


def unknown_option(folder: Path) -> dict[str, str]:
    values = in_uris(folder)
    return values | {"postgres_catalog": f"{values['postgres_catalog']}?no_such_option={SECRETS['postgres_catalog'].encoded}"}


def cut_percent(folder: Path) -> dict[str, str]:
    return in_uris(folder) | {"postgres_catalog": f"postgresql://shop:%zz{SECRETS['postgres_catalog'].core}@{NOWHERE}/shop"}


Plant = Callable[[Path], dict[str, str]]


async def execute(*arguments: str, until_said: str = "", **variables: str) -> tuple[int | None, str]:
    """Runs a command; returns its exit code and all it printed. One that serves is ended when it has said something."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cache_sidecar", *arguments),
        env=kept | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(DEADLINE):
        while line := await process.stdout.readline():
            said += line
            if until_said and until_said.encode() in said:
                until_said = ""
                process.send_signal(signal.SIGTERM)
        return await process.wait(), said.decode()


@pytest.mark.parametrize(
    ("plant", "place", "commands"),
    [(in_uris, "environment", COMMANDS[:1]), (in_options, "file", COMMANDS[:2]), (in_files, "file", COMMANDS)],
)
async def test_commands_without_servers(tmp_path: Path, plant: Plant, place: str, commands: Sequence[list[str]]) -> None:
    variables = variables_for(tmp_path, plant, place)
    for arguments in commands:
        code, said = await execute(*arguments, **variables)
        assert shown(said, *ALL) == [], arguments
        assert code == (0 if arguments == ["config"] else 69), (arguments, said)
    for arguments in SERVERS:
        code, said = await execute(*arguments, until_said="a dependency fails", **variables)
        assert shown(said, *ALL) == [], arguments
        assert code == 0, (arguments, said)


@pytest.mark.parametrize("plant", [unknown_option, cut_percent])
async def test_commands_with_a_uri_that_libpq_cannot_parse(tmp_path: Path, plant: Plant) -> None:
    variables = variables_for(tmp_path, plant, "environment")
    for arguments in (["serve"], ["migrate"], ["import", "products", PRODUCTS]):
        code, said = await execute(*arguments, **variables)
        assert (code, said.count("\n"), shown(said, *ALL)) == (64, 1, []), (arguments, said)


def variables_for(folder: Path, plant: Plant, place: str) -> dict[str, str]:
    """Returns the variables with settings, or with the file that has them."""
    values = {"redis_nodes": NOWHERE, "listen_address": "127.0.0.1:0", "log_level": "debug"} | plant(folder)
    if place == "environment":
        return {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    return {f"{PREFIX}CONFIG": written(folder, "sidecar.toml", text)}


WRONG: dict[str, Callable[[Path, Canary], dict[str, str]]] = {
    "a list of words": lambda _, c: {"postgres_catalog": f"host=db user=shop password={c.value}"},
    "a URI that is not encoded": lambda _, c: {"postgres_catalog": f"postgresql://shop:{c.value}@db/shop"},
    "a port that is none": lambda _, c: {"postgres_user": f"postgresql://shop:{c.encoded}@db:port/shop"},
    "another kind of URI": lambda _, c: {"postgres_catalog": f"mysql://shop:{c.encoded}@db/shop"},
    "a URI of Redis": lambda _, c: {"redis_nodes": f"redis://:{c.encoded}@redis:6379"},
    "a password behind a node": lambda _, c: {"redis_nodes": f"redis:6379,password={c.token}"},
    "a password as a port": lambda _, c: {"redis_nodes": f"redis:6379:{c.token}"},
    "two passwords": lambda folder, c: {"redis_password": c.value, "redis_password_file": written(folder, "f", c.value)},
    "two passwords of PostgreSQL": lambda folder, c: {
        "postgres_catalog": f"postgresql://shop:{c.encoded}@db/shop",
        "postgres_catalog_password_file": written(folder, "f", c.value),
    },
    "two lines": lambda folder, c: {"redis_password_file": written(folder, "f", f"{c.value}\n{c.value}\n")},
    "a long line": lambda folder, c: {"postgres_catalog_password_file": written(folder, "f", c.value * 500)},
    "a wrong name": lambda _, c: {"redis_passwd": c.value},
    "tokens with a word too many": lambda folder, c: {"access_tokens_file": written(folder, "f", f"a app b {c.token}\n")},
    "tokens in another order": lambda folder, c: {"access_tokens_file": written(folder, "f", f"cart {c.token} app\n")},
    "a token that begins a line": lambda folder, c: {"access_tokens_file": written(folder, "f", f"{c.token} cart app\n")},
    "a token that is none": lambda folder, c: {"access_tokens_file": written(folder, "f", f"{c.value}\n")},
    "a key that is none": lambda folder, c: {
        "listen_tls_key": written(folder, "f", f"-----BEGIN PRIVATE KEY-----\n{c.core}\n-----END PRIVATE KEY-----\n"),
        "listen_tls_cert": written(folder, "g", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
    },
}


@pytest.mark.parametrize("command", ["serve", "config"])
@pytest.mark.parametrize("how", WRONG)
def test_what_is_refused_is_one_line_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str, command: str
) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    canary = Canary("refused")
    values = {"redis_nodes": NOWHERE, "postgres_catalog": f"postgresql://{NOWHERE}/shop"} | WRONG[how](tmp_path, canary)
    for name, value in values.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        cli.main([command], prog_name="cache-sidecar")
    printed = capfd.readouterr()
    assert shown(printed.out + printed.err, canary) == []
    if command == "serve" or ended.value.code:
        assert (ended.value.code, printed.err.count("\n")) == (64, 1), printed.err


@pytest.mark.parametrize(
    "line",
    [
        'redis_password = "{core}',
        'redis_password = "{core}\\q"',
        'redis_password = ["{core}"]',
        'redis_password = {{ value = "{core}" }}',
        "redis_password = {core}",
        'redis_password = "a"\nredis_password = "{core}"',
        'redis_passwd = "{core}"',
    ],
)
async def test_a_settings_file_that_cannot_be_read_is_not_quoted(tmp_path: Path, line: str) -> None:
    canary = Canary("refused")
    file = written(tmp_path, "sidecar.toml", line.format(core=canary.core) + "\n")
    code, said = await execute("config", "--config", file)
    assert (code, said.count("\n"), shown(said, canary)) == (64, 1, []), said


class Servers:
    """A Redis and a PostgreSQL with a user whose passwords are canaries, and files with these passwords."""

    def __init__(self, valkey: ValkeyServer, database: str, name: str, folder: Path) -> None:
        self._valkey = valkey
        self._database = database
        self._name = name
        self.redis, self.postgres = folder / "redis", folder / "postgres"
        host = database.rpartition("@")[2]
        self.settings = {
            "redis_nodes": valkey.address,
            "redis_mode": "single",
            "redis_username": name,
            "redis_password_file": str(self.redis),
            "postgres_catalog": f"postgresql://{name}@{host}",
            "postgres_catalog_password_file": str(self.postgres),
            "namespace": name,
            "log_level": "debug",
        }

    async def use(self, redis: str, postgres: str) -> None:
        """Changes the passwords, and ends the connections that were made with the previous ones."""
        async with self._valkey.client() as client:
            await client.execute_command("ACL", "SETUSER", self._name, "reset", "on", f">{redis}", "~*", "&*", "+@all")
            await client.execute_command("CLIENT", "KILL", "USER", self._name)
        async with await psycopg.AsyncConnection.connect(self._database, autocommit=True) as connection:
            role = sql.Identifier(self._name)
            await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, postgres))
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [self._name])

    def variables(self) -> dict[str, str]:
        return {f"{PREFIX}{name.upper()}": value for name, value in self.settings.items()}


@pytest.fixture
async def servers(valkey: ValkeyServer, database: str, namespace: str, tmp_path: Path) -> AsyncIterator[Servers]:
    await run(database, f"CREATE ROLE {namespace} LOGIN IN ROLE {SIDECAR}, cs_relay")
    yield Servers(valkey, database, namespace, tmp_path)
    await run(database, f"DROP ROLE {namespace}")


async def replies(address: str, *, token: str) -> str:
    """Makes calls of every kind, and returns all that was replied, refusals with their details included."""
    said: list[str] = []

    async def note(call: Any) -> None:
        try:
            said.append(str(await call))
        except grpc.aio.AioRpcError as error:
            said.append(f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}")

    async def ask(*requests: Any) -> Any:
        call: Any = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter(requests), metadata=metadata)
        return [reply async for reply in call]

    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(address) as channel:
        products: Any = pb_grpc.ProductServiceStub(channel)
        operator: Any = admin_grpc.AdminServiceStub(channel)
        for one in ({}, {"metadata": metadata}):
            await note(products.CreateProduct(pb.CreateProductRequest(product=product("mug")), **one))
            await note(products.GetProduct(pb.GetProductRequest(product_id="mug"), **one))
            await note(products.GetProduct(pb.GetProductRequest(product_id="none"), **one))
            await note(operator.GetStats(admin.GetStatsRequest(), **one))
            await note(operator.InspectKey(admin.InspectKeyRequest(dataset="product", id="mug"), **one))
            await note(operator.GetPolicy(admin.GetPolicyRequest(), **one))
            change = admin.DatasetPolicy(dataset="product", rollout=50)
            await note(operator.UpdatePolicy(admin.UpdatePolicyRequest(policy=change), **one))
            await note(operator.UpdateLogLevel(admin.UpdateLogLevelRequest(level=admin.LOG_LEVEL_DEBUG), **one))
            await note(operator.Invalidate(admin.InvalidateRequest(dataset="product", all=True), **one))
        symbol = "cache_sidecar.v1.AdminService"
        await note(
            ask(
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
            )
        )
    return "\n".join(said)


async def probe(address: str, token_file: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cache_sidecar.probe", address, "--verbose", "--token-file", token_file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    return out.decode()


@contextlib.asynccontextmanager
async def started(*arguments: str, log: Path, **variables: str) -> AsyncIterator[None]:
    """Runs a command until the end of the context; its output goes to a file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cache_sidecar", *arguments), env=kept | variables, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), DEADLINE)


@pytest.mark.parametrize("engine", ["native", "aio"])
async def test_processes_with_right_wrong_and_rotated_passwords(servers: Servers, tmp_path: Path, engine: str) -> None:
    first, second = SECRETS["redis_password_file"], SECRETS["postgres_catalog_password_file"]
    rotated = Canary("rotated_redis"), Canary("rotated_postgres")
    tokens = Canary("access_tokens_file"), Canary("wrong_token")
    all_of_them = first, second, *rotated, *tokens
    secret_file(servers.redis, f"{first.value}\n")
    secret_file(servers.postgres, f"{second.value}\n")
    await servers.use(first.value, second.value)
    token_file = written(tmp_path, "tokens", f"ops app,admin {tokens[0].token}\n")
    socket = tmp_path / "grpc.sock"
    own = {"LISTEN_ADDRESS": "", "LISTEN_SOCKET": str(socket), "ACCESS_TOKENS_FILE": token_file, "ENGINE": engine}
    variables = servers.variables() | {f"{PREFIX}{name}": value for name, value in own.items()}
    log, relay_log, address = tmp_path / "serve.log", tmp_path / "relay.log", f"unix:{socket}"
    said: list[str] = []

    async def look(*commands: list[str]) -> None:
        said.extend([await replies(address, token=token.token) for token in tokens])
        said.append(await probe(address, token_file))
        for arguments in commands:
            said.append((await execute(*arguments, **servers.variables()))[1])

    async def are_refused() -> bool:
        text = log.read_text()
        await replies(address, token=tokens[0].token)
        return "WRONGPASS" in text and "password authentication failed" in text

    async def are_missing() -> bool:
        await replies(address, token=tokens[0].token)
        return log.read_text().count("the password is missing") >= 2

    async with started("serve", log=log, **variables), started("relay", log=relay_log, **servers.variables()):
        await until(socket.exists)
        await serving(address)
        await until(lambda: publishes(relay_log))
        await look()
        # The servers have other passwords, and the files have not: every new connection is refused.
        await servers.use(rotated[0].value, rotated[1].value)
        await until(are_refused)
        await look(["config"], ["verify"], ["user", "export", "ann"], ["migrate"])
        assert "password authentication failed" in "".join(said)
        # The files follow, one of them with the other's password first.
        servers.redis.write_text(f"{rotated[0].value}\n")
        servers.postgres.write_text(f"{rotated[0].value}\n")
        await look()
        servers.postgres.write_text(f"{rotated[1].value}\n")
        await until(lambda: log.read_text().count("a dependency works again") >= 2)
        await look()
        servers.postgres.write_text(f"{rotated[1].value}\n{rotated[1].value}\n")
        servers.redis.unlink()
        await servers.use(first.value, second.value)
        await until(are_missing)
        await look(["verify"])
    said += [log.read_text(), relay_log.read_text()]
    assert '"audit": true' in said[-2]
    assert shown("\n".join(said), *all_of_them) == []
