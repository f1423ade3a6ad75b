"""A shop's pages, called as `clients/README.md` tells Python to: see `tests/interop/test_service_config.py`.

python shop.py TARGET CONFIG PLAN
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


async def main(target: str, config: str, plan: dict[str, Any]) -> None:
    options = [("grpc.service_config", Path(config).read_text()), *RECONNECT]
    async with grpc.aio.insecure_channel(target, options=options) as channel:

        async def call(path: str, request: str) -> str:
            try:
                await channel.unary_unary(path)(bytes.fromhex(request), timeout=plan["deadline"])
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            return "OK"

        if once := plan.get("once"):
            began = time.monotonic()
            code = (await call(*once)).partition(":")[0]
            print(json.dumps({"code": code, "seconds": time.monotonic() - began}))
            return
        failed: list[str] = []
        is_over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))

        async def visit(page: list[list[str]]) -> None:
            while not is_over.done():
                outcomes = [f"{path}: {await call(path, request)}" for path, request in page]
                failed.extend(outcome for outcome in outcomes if not outcome.endswith(": OK"))
                print("page", flush=True)

        await asyncio.gather(*map(visit, plan["users"]))
        print(json.dumps({"failed": failed}))


asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())))
