"""`cache-sidecar-probe ADDRESS`: asks whether a sidecar is serving.

The kubelet's own gRPC probe can reach neither the loopback interface nor a unix socket. This one is started every few seconds,
so it does without gRPC, whose import takes ten times as long as all of this.
The exchange is one unary call of HTTP/2 (RFC 9113, header fields as in RFC 7541 without compression).
"""

import argparse
import socket
import sys
import time

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# A message: not compressed, two bytes long, status = SERVING.
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


def main() -> None:
    """Exits 0 when the sidecar is serving, else 1 with one line."""
    parser = argparse.ArgumentParser(prog="cache-sidecar-probe", description="Asks a sidecar whether it is serving.")
    parser.add_argument("address", help="host:port, or unix:/path/of/the/socket")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may still be starting")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.wait
    while problem := ask(arguments.address):
        if time.monotonic() >= deadline:
            sys.exit(f"cache-sidecar-probe: {arguments.address}: {problem}")
        time.sleep(0.1)


def ask(address: str, timeout: float = 2.0) -> str:
    """Returns what is wrong with the sidecar at an address, nothing when it is serving."""
    try:
        with _connect(address, timeout) as connection:
            connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _call())
            return _answer(connection, time.monotonic() + timeout)
    except ValueError:
        return "must be host:port or unix:/path"
    except OSError as error:
        return error.strerror or "no answer in time"


def _connect(address: str, timeout: float) -> socket.socket:
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(address.removeprefix("unix:"))
    except OSError:
        connection.close()
        raise
    return connection


def _call() -> bytes:
    fields = b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(b"/grpc.health.v1.Health/Check"),  # :path
            b"\x01" + _text(b"localhost"),  # :authority
            b"\x0f\x10" + _text(b"application/grpc"),  # content-type
            b"\x00" + _text(b"te") + _text(b"trailers"),
        ]
    )
    return _frame(_HEADERS, _END_HEADERS, 1, fields) + _frame(_DATA, _END_STREAM, 1, b"\x00" * 5)


def _answer(connection: socket.socket, deadline: float) -> str:
    while time.monotonic() < deadline:
        header = _read(connection, 9)
        payload = _read(connection, int.from_bytes(header[:3], "big"))
        kind, flags = header[3], header[4]
        if kind == _DATA:
            return "" if payload == _SERVING else "not serving"
        if kind == _SETTINGS and not flags & _ACK:
            connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind in {_RST_STREAM, _GOAWAY} or (kind == _HEADERS and flags & _END_STREAM):
            return "the call was refused"
    return "no answer in time"


def _read(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        more = connection.recv(length - len(received))
        if not more:
            raise ConnectionResetError(0, "the connection was closed")
        received += more
    return received


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value
