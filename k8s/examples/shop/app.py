"""A product page as JSON: GET /products/ID. It calls the sidecar of its pod, whose address the injector has set."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.json_format import MessageToJson

from cache_sidecar.v1.product_service_pb2 import GetProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub

_STATUSES = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.INVALID_ARGUMENT: 400}


class Server(ThreadingHTTPServer):
    """Waits for requests in progress when it is closed."""

    daemon_threads = False


def serve(address: str, port: int) -> Server:
    """Returns a server that is not started yet."""
    products = ProductServiceStub(grpc.insecure_channel(address))
    timeout_of_call = float(os.environ.get("CALL_TIMEOUT", "2"))

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5  # seconds; of idle connections, too, which would otherwise delay the end

        def do_GET(self) -> None:
            """Sends the product and its cache metadata."""
            if self.path == "/healthz":
                self._send(200, "ok\n")
                return
            product_id = self.path.removeprefix("/products/")
            try:
                reply = products.GetProduct(GetProductRequest(product_id=product_id), timeout=timeout_of_call)
            except grpc.RpcError as error:
                self._send(_STATUSES.get(error.code(), 503), f"{error.details()}\n")
            else:
                self._send(200, MessageToJson(reply, preserving_proto_field_name=True) + "\n")

        def _send(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Suppresses the log line per request."""

    return Server(("", port), Page)


def main() -> None:
    """Serves until SIGTERM, which the first process of a container ignores unless it says otherwise."""
    server = serve(os.environ["CACHE_SIDECAR_ADDRESS"], int(os.environ.get("PORT", "8000")))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
