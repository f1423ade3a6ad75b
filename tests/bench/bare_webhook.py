"""The reference for an admission: an aiohttp handler behind TLS that parses the JSON and returns one constant answer.

Runs as a process of its own, `python -m tests.bench.bare_webhook FOLDER`, and prints the port it chose.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def _serve(folder: Path) -> None:
    answer = (folder / "answer.json").read_bytes()

    async def handle(request: web.Request) -> web.Response:
        json.loads(await request.read())
        return web.Response(body=answer, content_type="application/json")

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    app = web.Application()
    app.router.add_post("/inject/namespace", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        uvloop.run(_serve(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
