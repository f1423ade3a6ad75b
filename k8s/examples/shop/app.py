"""A product page as JSON: GET /products/ID. It asks the sidecar of its pod, at the address that the injector told it."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.json_format import MessageToJson

from cache_sidecar.v1.product_service_pb2 import GetProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub

_STATUSES = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.INVALID_ARGUMENT: 400}


def serve(address: str, port: int) -> ThreadingHTTPServer:
    """Returns a server that is not running yet."""
    products = ProductServiceStub(grpc.insecure_channel(address))

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answers with the product, and where it came from."""
            if self.path == "/healthz":
                self._send(200, "ok\n")
                return
            product_id = self.path.removeprefix("/products/")
            try:
                reply = products.GetProduct(GetProductRequest(product_id=product_id), timeout=2)
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
            """Logs nothing per request."""

    return ThreadingHTTPServer(("", port), Page)


if __name__ == "__main__":
    serve(os.environ["CACHE_SIDECAR_ADDRESS"], 8000).serve_forever()
