"""An injector as a process, and a client of its webhook."""

import asyncio
import contextlib
import io
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from cache_sidecar.injector.certificates import Material, renew
from tests.support.until import DEADLINE, until

NAME = "cache-sidecar-injector.cache-sidecar.svc"


def make_certificate(folder: Path, *, now: float, lifetime: float = 86400.0) -> Material:
    """Writes tls.crt, tls.key and ca.crt into a folder, as cert-manager would."""
    material = renew(None, [NAME], now=now, lifetime=lifetime)
    for name in ("ca.crt", "tls.key", "tls.crt"):
        (folder / name).write_bytes(material.to_secret()[name])
    return material


class Webhook:
    """Where a running injector listens, and how it is called."""

    def __init__(
        self, port: int, web: int, process: asyncio.subprocess.Process, log: Path, session: aiohttp.ClientSession
    ) -> None:
        self.port = port
        self.process = process
        self.log = log
        self._web = f"http://127.0.0.1:{web}"
        self._session = session

    async def page(self, path: str, *, accept: str = "*/*") -> tuple[int, str]:
        """Gets /healthz, /readyz or /metrics."""
        async with self._session.get(self._web + path, headers={"Accept": accept}) as reply:
            return reply.status, await reply.text()

    async def is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return (await self.page("/readyz"))[0] == 200
        return False

    async def send(
        self, body: bytes, authority: Path, path: str = "/inject/namespace", *, client: Path | None = None
    ) -> tuple[int, bytes]:
        """Posts anything on a new connection, trusting the CA in a file; `client` has a certificate with its key, in PEM."""
        tls = ssl.create_default_context(cafile=authority)
        if client:
            tls.load_cert_chain(client)
        connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"https://127.0.0.1:{self.port}{path}", data=io.BytesIO(body), server_hostname=NAME) as reply,
        ):
            return reply.status, await reply.read()

    async def ask(self, review: Any, authority: Path) -> dict[str, Any]:
        """Posts a review, and returns the answer."""
        status, body = await self.send(json.dumps(review).encode(), authority)
        assert status == 200, body
        return json.loads(body)


@contextlib.asynccontextmanager
async def injector(folder: Path, ports: list[int], **sections: dict[str, Any]) -> AsyncIterator[Webhook]:
    """Runs `cache-sidecar injector`, with these sections of its configuration over what a test needs."""
    port, web = ports
    config: dict[str, dict[str, Any]] = {
        "server": {"listen": f"127.0.0.1:{port}", "web": f"127.0.0.1:{web}", "namespace": "cache-sidecar"},
        "certificates": {"source": "files", "cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")},
        "reconciler": {"mode": "off"},
    }
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    text = [f"{key} = {json.dumps(value)}\n" for key, value in config.pop("", {}).items()]
    for name, values in config.items():
        text += [f"[{name}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in values.items())]
    file, log = folder / "injector.toml", folder / "injector.log"
    file.write_text("".join(text))
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cache_sidecar", "injector", "--config", str(file), stdout=out, stderr=out, env=os.environ
        )
    try:
        async with aiohttp.ClientSession() as session:
            webhook = Webhook(port, web, process, log, session)
            yield webhook
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.wait_for(process.wait(), DEADLINE)


async def ready(webhook: Webhook) -> None:
    """Waits until it answers reviews."""
    await until(webhook.is_ready)
