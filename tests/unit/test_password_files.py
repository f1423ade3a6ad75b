"""Passwords from files: read for every new connection, in Redis and PostgreSQL, and never shown."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from redis.exceptions import AuthenticationError

from cache_sidecar.config.settings import Settings, describe
from cache_sidecar.core import masks
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.password_file import read_password
from cache_sidecar.store.connection import Connection, split_password_file
from cache_sidecar.store.postgres_errors import check_dsn
from cache_sidecar.tiers.redis.client import RedisClient
from tests.support import inside
from tests.support.tokens import secret_file

URI = "postgresql://shop@db/shop"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "pass word&file", "first-s3cr3t\n")


def settings(**values: str) -> Settings:
    return Settings(**{"redis_nodes": "127.0.0.1:1", "postgres_catalog": URI} | values)  # type: ignore[arg-type]


def error_of(**values: str) -> str:
    with pytest.raises(ValueError, match=r".") as raised:
        settings(**values)
    return str(raised.value)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """Runs a server, and returns its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_every_connection_to_postgresql_reads_the_password_again(file: Path) -> None:
    received = []

    async def ask_for_the_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
        writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))  # AuthenticationCleartextPassword
        assert await reader.readexactly(1) == b"p"
        received.append(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4))

    async with serving(ask_for_the_password) as port:
        uri = f"postgresql://shop@127.0.0.1:{port}/shop?sslmode=disable&gssencmode=disable&application_name=x"
        dsn = settings(postgres_catalog=uri, postgres_catalog_password_file=str(file)).database("user")
        check_dsn(dsn)
        for password in ("first-s3cr3t", "second-s3cr3t"):
            file.write_text(f"{password}\n")
            with pytest.raises(psycopg.OperationalError):
                await Connection.connect(dsn)
        assert received == [b"first-s3cr3t\0", b"second-s3cr3t\0"]

        file.unlink()
        with pytest.raises(psycopg.OperationalError, match=r"^the password is missing: cannot read .*: No such file or dir"):
            await Connection.connect(dsn)
        assert len(received) == 2


@pytest.mark.parametrize("username", ["", "cs_app"])
async def test_every_connection_to_redis_reads_the_password_again(file: Path, username: str) -> None:
    received = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            count = int((await reader.readuntil(b"\r\n"))[1:])
            command = [(await reader.readuntil(b"\r\n"), (await reader.readuntil(b"\r\n"))[:-2])[1] for _ in range(count)]
            received.append(command)
            writer.write({b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"PING": b"+PONG\r\n"}.get(command[0], b"+OK\r\n"))

    async with serving(record) as port:
        client = RedisClient(settings(redis_username=username, redis_password_file=str(file)))
        for password in ("first-s3cr3t", "second-s3cr3t"):
            file.write_text(password)
            connection = inside.connect(client, ("127.0.0.1", port))
            await connection.connect()
            await connection.disconnect()
            sent = [word for command in received for word in command]
            assert password.encode() in sent
            assert (b"cs_app" in sent) == (username == "cs_app")
            received.clear()
        # The clients of the relay, scripts and scans are others.
        one = client.to(("127.0.0.1", port))
        assert await one.ping()
        await one.aclose()
        assert b"second-s3cr3t" in [word for command in received for word in command]

        file.unlink()
        with pytest.raises(AuthenticationError, match=r"^the password is missing: cannot read .*: No such file or directory$"):
            await inside.connect(client, ("127.0.0.1", port)).connect()
        await client.close()


def test_each_role_has_the_password_of_its_own_uri(file: Path, tmp_path: Path) -> None:
    secret_file(tmp_path / "other", "other")
    found = settings(postgres_catalog_password_file=str(file))
    assert list(found.databases().values()) == [["catalog", "user", "analytics"]]
    found = settings(
        postgres_catalog_password_file=str(file),
        postgres_user=URI.replace("shop", "users"),
        postgres_user_password_file=str(tmp_path / "other"),
    )
    assert [split_password_file(dsn) for dsn in found.databases()] == [
        (URI, str(file)),
        (URI.replace("shop", "users"), str(tmp_path / "other")),
    ]
    found = settings(postgres_catalog_password_file=str(file), postgres_user=URI.replace("shop", "users"))
    assert split_password_file(found.database("user")) == (URI.replace("shop", "users"), "")


def test_no_output_shows_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_PASSWORD_FILE", "POSTGRES_CATALOG_PASSWORD_FILE"):
        monkeypatch.setenv(f"CACHE_SIDECAR_{name}", str(file))
    found = settings()
    assert "s3cr3t" not in f"{found!r} {found} {describe()} {found.model_dump_json()} {found.databases()}"
    assert masks.mask("libpq said first-s3cr3t") == "libpq said ***"
    file.write_text("second-s3cr3t")
    read_password(str(file))
    assert masks.mask("it was first-s3cr3t and is second-s3cr3t") == "it was *** and is ***"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty: it must hold a password"),
        (b"\n", "is empty: it must hold a password"),
        (b"s3cr3t\nanother\n", "must hold a password on one line of at most 4096 bytes"),
        (b"s3cr3t" * 1000, "must hold a password on one line of at most 4096 bytes"),
        (b"s3cr3t\0", "must hold a password on one line of at most 4096 bytes"),
        (b"s3cr3t\xff", "is not UTF-8"),
    ],
)
def test_a_file_without_a_password_is_one_line(file: Path, content: bytes, problem: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        read_password(str(file))
    assert str(raised.value) == f"{file} {problem}"
    for name in ("redis_password_file", "postgres_catalog_password_file", "postgres_user_password_file"):
        said = error_of(**{name: str(file)})
        assert f"Value error, {file} {problem} " in said
        assert "s3cr3t" not in said


def test_white_space_belongs_to_a_password_but_its_line_end_does_not(file: Path) -> None:
    for content, password in (("a b ", "a b "), ("é\r\n", "é"), (" x\n", " x")):
        file.write_text(content, newline="")
        assert read_password(str(file)) == password


def test_two_passwords_for_one_connection_are_an_error(file: Path) -> None:
    said = error_of(redis_password="x", redis_password_file=str(file))
    assert "redis_password and redis_password_file are both set: keep one of them" in said
    for uri in ("postgresql://shop:x@db/shop", f"{URI}?password=x", f"{URI}?passfile=/x"):
        said = error_of(postgres_catalog=uri, postgres_catalog_password_file=str(file))
        assert "postgres_catalog and postgres_catalog_password_file both set a password: keep one of them" in said
    assert "requires postgres_user" in error_of(postgres_user_password_file=str(file))
