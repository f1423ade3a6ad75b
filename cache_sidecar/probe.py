"""`cache-sidecar-probe ADDRESS`: asks whether a sidecar is serving.

The kubelet's own gRPC probe can reach neither the loopback interface nor a unix socket. This one is started every few seconds,
so it does without gRPC, whose import takes ten times as long as all of this.
The exchange is one unary call of HTTP/2 (RFC 9113, header fields as in RFC 7541 without compression).
"""

import argparse
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# A message: not compressed, two bytes long, status = SERVING.
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
_HEALTH, _STATS = b"/grpc.health.v1.Health/Check", b"/cache_sidecar.v1.AdminService/GetStats"
# The field of a reply of GetStats that says what is degraded; in each of these: what, which, and what callers see of it.
_DEGRADATIONS = 5


class _Refused(Exception):
    """There was no message."""


class Way(NamedTuple):
    """How a sidecar is reached."""

    address: str
    "host:port, or unix:/path/of/the/socket."
    tls: "ssl.SSLContext | None" = None
    server_name: str = ""
    "The name in the sidecar's certificate, where it is not the host."
    token: str = ""
    "What `--verbose` shows; health needs none."


def main() -> None:
    """Exits 0 when the sidecar is serving, also while Redis or PostgreSQL is away, else 1 with one line."""
    parser = argparse.ArgumentParser(prog="cache-sidecar-probe", description="Asks a sidecar whether it is serving.")
    parser.add_argument("address", help="host:port, or unix:/path/of/the/socket")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may still be starting")
    parser.add_argument("--verbose", action="store_true", help="say also what is degraded, a line each")
    parser.add_argument("--ca", metavar="FILE", help="ask by TLS, and trust a sidecar whose certificate this one signed")
    parser.add_argument("--server-name", default="", metavar="NAME", help="the name in its certificate, if not the host")
    parser.add_argument("--cert", metavar="FILE", help="the certificate to show, for mutual TLS")
    parser.add_argument("--key", metavar="FILE", help="its key")
    parser.add_argument("--token-file", metavar="FILE", help="file with a token, which --verbose needs where calls need one")
    arguments = parser.parse_args()
    try:
        way = _way(arguments)
    except ValueError as error:
        parser.error(str(error))
    deadline = time.monotonic() + arguments.wait
    while problem := ask(way):
        if time.monotonic() >= deadline:
            sys.exit(f"cache-sidecar-probe: {way.address}: {problem}")
        time.sleep(0.1)
    if arguments.verbose:
        sys.stdout.writelines(f"degraded: {line}\n" for line in degraded(way))


def _way(arguments: argparse.Namespace) -> Way:
    """Returns what the arguments ask for. Raises ValueError with a sentence."""
    if bool(arguments.cert) != bool(arguments.key) or (arguments.cert and not arguments.ca):
        raise ValueError("--cert and --key go together, and with --ca")
    try:
        tls = _trusting(arguments.ca, arguments.cert, arguments.key) if arguments.ca else None
        token = _first_token(arguments.token_file) if arguments.token_file else ""
    except OSError as error:  # as ssl's are
        raise ValueError(f"cannot use the files named: {error.strerror or error}") from None
    return Way(arguments.address, tls, arguments.server_name, token)


def _trusting(ca: str, cert: str | None, key: str | None) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415  # takes a third of the time of all else

    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _first_token(file: str) -> str:
    """Returns the first token of a file as `access_tokens_file` is one."""
    lines = map(str.strip, Path(file).read_text().splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def ask(way: Way, timeout: float = 2.0) -> str:
    """Returns what is wrong with the sidecar, nothing when it is serving."""
    try:
        return "" if _exchange(way, _HEALTH, timeout) == _SERVING else "not serving"
    except (OSError, ValueError) as error:
        return _problem(error)
    except _Refused as error:
        return str(error)


def _problem(error: Exception) -> str:
    if hasattr(error, "verify_message"):  # of ssl
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or "no answer in time"
    return "must be host:port or unix:/path"


def degraded(way: Way, timeout: float = 2.0) -> list[str]:
    """Returns what does not work while the sidecar goes on, a line each.

    Such as `redis 10.0.0.1:6379: what it holds is read from ...; since 2026-11-29T12:00:00Z: NOPERM User shop has no ...`.
    """
    try:
        found = _fields(_exchange(way, _STATS, timeout)[5:])
    except (OSError, _Refused):
        return ["unknown: the sidecar does not say"]
    return [_line(dict(_fields(value))) for number, value in found if number == _DEGRADATIONS]


def _line(degradation: dict[int, bytes]) -> str:
    what, which, effect, reason = (degradation.get(number, b"").decode() for number in (1, 2, 3, 4))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_seconds(degradation.get(5, b""))))
    return f"{what} {which}".rstrip() + f": {effect}; since {since}: {reason}"


def _seconds(timestamp: bytes) -> int:
    """Returns the seconds of a google.protobuf.Timestamp, its first field."""
    return _varint(timestamp, 1)[0] if timestamp[:1] == b"\x08" else 0


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Returns the fields of a protobuf message that hold bytes, by number."""
    found, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        size, at = _varint(message, at)  # or a number, which is all of the field
        if tag & 7 == 2:  # the wire type LEN
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the number at a place, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:  # the last byte
            return value, at


def _exchange(way: Way, path: bytes, timeout: float) -> bytes:
    """Returns the reply to a call with an empty request, five bytes before it included. Raises what `_answer` raises."""
    with _connect(way, timeout) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _call(path, way.token))
        return _answer(connection, time.monotonic() + timeout)


def _connect(way: Way, timeout: float) -> socket.socket:
    address = way.address
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        plain = socket.create_connection((host, int(port)), timeout)
        return way.tls.wrap_socket(plain, server_hostname=way.server_name or host) if way.tls else plain
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(address.removeprefix("unix:"))
    except OSError:
        connection.close()
        raise
    return connection


def _call(path: bytes, token: str) -> bytes:
    fields = b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(path),  # :path
            b"\x01" + _text(b"localhost"),  # :authority
            b"\x0f\x10" + _text(b"application/grpc"),  # content-type
            b"\x00" + _text(b"te") + _text(b"trailers"),
            *([b"\x1f\x08" + _text(b"Bearer " + token.encode())] if token else []),  # authorization, never to be kept
        ]
    )
    return _frame(_HEADERS, _END_HEADERS, 1, fields) + _frame(_DATA, _END_STREAM, 1, b"\x00" * 5)


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """Returns a reply. Raises OSError, or _Refused when there is none."""
    received = b""
    while time.monotonic() < deadline:
        header = _read(connection, 9)
        payload = _read(connection, int.from_bytes(header[:3], "big"))
        kind, flags = header[3], header[4]
        if kind == _DATA:
            received += payload
            if len(received) >= 5 + int.from_bytes(received[1:5], "big"):
                return received
        elif kind == _SETTINGS and not flags & _ACK:
            connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind in {_RST_STREAM, _GOAWAY} or (kind == _HEADERS and flags & _END_STREAM):
            raise _Refused("the call was refused")
    raise _Refused("no answer in time")


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
    if len(value) < 127:
        return bytes([len(value)]) + value
    more = len(value) - 127
    length = b"\x7f"
    while more >= 128:
        length += bytes([more % 128 + 128])
        more //= 128
    return length + bytes([more]) + value
