"""The reference for a hit: a grpcio aio server that only returns one constant reply.

Runs as a process of its own, `python -m tests.bench.bare METHOD_PATH REPLY_FILE ADDRESS`, on the same grpcio, event loop and
flags as the sidecar, and prints the port it chose; on `unix:PATH` it prints 1.
"""

import asyncio
import os
import sys
from pathlib import Path

# As in the sidecar, and as there before grpc is imported: the listener that is the default since 1.80 is slower.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import grpc
import uvloop


async def _serve(method_path: str, reply: bytes, address: str) -> None:
    async def answer(_request: bytes, _context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return reply

    _, service, method = method_path.split("/")
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    try:
        uvloop.run(_serve(sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
