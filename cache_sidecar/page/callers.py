"""A browser as a caller of AdminService: its requests pass the layers that gRPC calls pass."""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NoReturn

import grpc

from cache_sidecar.server.auth import Access
from cache_sidecar.server.http import Request

NEEDS_CERTIFICATE = (
    "this sidecar asks its callers for client certificates, which the page cannot present: use `cache-sidecar status`, `top` "
    "and `policy`, or `cache-sidecar dashboard`, with --cert"
)
_STATUSES = {
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Refused(Exception):
    """A call ended with a status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that says the same."""
        return _STATUSES.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)


class BrowserCall:
    """The context of a call by HTTP: the part of `grpc.aio.ServicerContext` that unary calls use."""

    def __init__(self, request: Request, peername: Any) -> None:
        """`peername` is that of the socket."""
        host, port = peername[:2]
        self._peer = f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
        self._metadata = tuple(("authorization", value) for value in request.headers["authorization"])

    def peer(self) -> str:
        """Returns the caller's address, as gRPC writes it."""
        return self._peer

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """Returns the metadata of the call."""
        return self._metadata

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns the properties of the caller's certificate; there is no TLS here."""
        return {}

    def time_remaining(self) -> float | None:
        """Returns the seconds to the deadline: there is none."""
        return None

    async def abort(self, code: grpc.StatusCode, details: str, _trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with a status. Raises Refused."""
        raise Refused(code, details)


async def call(method: Callable[[bytes, Any], Any], request: bytes, context: BrowserCall, access: Access) -> bytes:
    """Calls a method with all its layers. Raises Refused."""
    try:
        reply: bytes = await method(request, context)
    except Refused as error:
        if access.needs_certificates and error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, NEEDS_CERTIFICATE) from None
        raise
    return reply
