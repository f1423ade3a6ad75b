"""TLS to PostgreSQL with `postgres_tls_ca`: a server that the CA has not signed, or for another name, never gets the password."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from cache_sidecar.config.settings import Settings
from cache_sidecar.store.connection import Connection
from tests.support.authority import Authority, Pair


@contextlib.asynccontextmanager
async def serving(folder: Path, pair: Pair) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Runs a server that accepts TLS and asks for the password. Returns its port, and the passwords it got."""
    received: list[bytes] = []
    (folder / "server.pem").write_bytes(pair.cert + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(tls)
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
            writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))  # AuthenticationCleartextPassword
            await reader.readexactly(1)
            received.append(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], received


@pytest.mark.parametrize("case", ["ours", "another CA", "another name"])
async def test_the_server_must_have_the_name_and_the_ca(tmp_path: Path, case: str) -> None:
    ours = Authority("the CA of the databases")
    signer = Authority("another CA") if case == "another CA" else ours
    pair = signer.signed("db.other", []) if case == "another name" else signer.server("localhost")
    (tmp_path / "ca.crt").write_bytes(ours.cert)
    async with serving(tmp_path, pair) as (port, received):
        settings = Settings(
            redis_nodes="127.0.0.1:1",  # type: ignore[arg-type]
            postgres_catalog=f"postgresql://shop:s3cr3t@127.0.0.1:{port}/shop",  # type: ignore[arg-type]
            postgres_tls_ca=str(tmp_path / "ca.crt"),
        )
        with pytest.raises(psycopg.OperationalError):
            await Connection.connect(settings.database("catalog"), gssencmode="disable")
        assert received == ([b"s3cr3t\0"] if case == "ours" else [])
