"""`cache-sidecar-probe ADDRESS`: checks whether a sidecar is serving.

The kubelet's own gRPC probe can reach neither the loopback interface nor a Unix socket. This program is started every few
seconds, so it does not use gRPC, whose import alone takes ten times as long as the whole probe. It makes one unary call over
HTTP/2 (RFC 9113; header fields as in RFC 7541 without compression).
"""

import argparse
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# A gRPC message: not compressed, two bytes long, status = SERVING.
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
_HEALTH, _STATS = b"/grpc.health.v1.Health/Check", b"/cache_sidecar.v1.AdminService/GetStats"
# The number of the field GetStatsResponse.degradations.
_DEGRADATIONS = 5
# Roles that may call GetStats, as in `config/roles.py`.
_READING = frozenset({"read", "admin"})


class _Refused(Exception):
    """The call ended without a message."""


class Target(NamedTuple):
    """The sidecar to call, and how."""

    address: str
    "host:port, or unix:/path/of/the/socket."
    tls: "ssl.SSLContext | None" = None
    server_name: str = ""
    "The name in the sidecar's certificate, if it differs from the host."
    token: str = ""
    "The bearer token for `--verbose`; health checks need none."


def main() -> None:
    """Exits with 0 if the sidecar is serving, even while Redis or PostgreSQL is down, else with 1 and one line."""
    parser = argparse.ArgumentParser(prog="cache-sidecar-probe", description="Checks whether a sidecar is serving.")
    parser.add_argument("address", help="host:port, or unix:/path/of/the/socket")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for the sidecar to start")
    parser.add_argument("--verbose", action="store_true", help="also print what is degraded, one line each")
    parser.add_argument("--ca", metavar="FILE", help="use TLS, and trust certificates signed by this CA")
    parser.add_argument("--server-name", default="", metavar="NAME", help="the name in its certificate, if not the host")
    parser.add_argument("--cert", metavar="FILE", help="the client certificate, for mutual TLS")
    parser.add_argument("--key", metavar="FILE", help="the key of the client certificate")
    parser.add_argument("--token-file", metavar="FILE", help="file with a bearer token for --verbose, if required")
    arguments = parser.parse_args()
    try:
        target = _target(arguments)
    except ValueError as error:
        parser.error(str(error))
    deadline = time.monotonic() + arguments.wait
    while problem := ask(target):
        if time.monotonic() >= deadline:
            sys.exit(f"cache-sidecar-probe: {target.address}: {problem}")
        time.sleep(0.1)
    if arguments.verbose:
        _print(f"degraded: {line}\n" for line in read_degradations(target))


def _print(lines: "Iterable[str]") -> None:
    try:
        sys.stdout.writelines(lines)
        sys.stdout.flush()
    except OSError as error:
        # Python would try again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"cache-sidecar-probe: cannot write: {error.strerror}")


def _target(arguments: argparse.Namespace) -> Target:
    """Returns the target of the arguments. Raises ValueError with a message for users."""
    if bool(arguments.cert) != bool(arguments.key) or (arguments.cert and not arguments.ca):
        raise ValueError("--cert and --key must be used together, and with --ca")
    try:
        tls = _tls_context(arguments.ca, arguments.cert, arguments.key) if arguments.ca else None
        token = _first_token(arguments.token_file) if arguments.token_file else ""
    except OSError as error:  # ssl's errors are OSErrors
        raise ValueError(f"cannot load the given files: {error.strerror or error}") from None
    return Target(arguments.address, tls, arguments.server_name, token)


def _tls_context(ca: str, cert: str | None, key: str | None) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415  # the import takes a third of the probe's time

    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _first_token(file: str) -> str:
    """Returns the first token, in a file in the format of `access_tokens_file`, that has the role for GetStats.

    If none has it, returns the first one without roles, or else the first one.
    """
    lines = [words for words in map(str.split, Path(file).read_text().splitlines()) if words and not words[0].startswith("#")]
    named = [words for words in lines if len(words) == 3 and _READING.intersection(words[1].replace("+", ",").split(","))]
    plain = [words for words in lines if len(words) == 1]
    return next((words[-1] for words in (*named, *plain, *lines)), "")


def ask(target: Target, timeout: float = 2.0) -> str:
    """Returns why the sidecar is not serving, an empty string if it is."""
    try:
        return "" if _exchange(target, _HEALTH, timeout) == _SERVING else "not serving"
    except (OSError, ValueError) as error:
        return _problem(error)
    except _Refused as error:
        return str(error)


def _problem(error: Exception) -> str:
    if hasattr(error, "verify_message"):  # an error of ssl
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or "no answer in time"
    return "must be host:port or unix:/path"


def read_degradations(target: Target, timeout: float = 2.0) -> list[str]:
    """Returns what is degraded, one line each.

    Such as `redis 10.0.0.1:6379: EFFECT; since 2026-11-29T12:00:00Z: NOPERM User shop has no ...`.
    """
    try:
        found = _fields(_exchange(target, _STATS, timeout)[5:])
    except (OSError, _Refused):
        return ["unknown: the sidecar did not answer GetStats"]
    return [_line(dict(_fields(value))) for number, value in found if number == _DEGRADATIONS]


def _line(degradation: dict[int, bytes]) -> str:
    what, which, effect, reason = (degradation.get(number, b"").decode() for number in (1, 2, 3, 4))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_seconds(degradation.get(5, b""))))
    return f"{what} {which}".rstrip() + f": {effect}; since {since}: {reason}"


def _seconds(timestamp: bytes) -> int:
    """Returns the seconds of a google.protobuf.Timestamp, its first field."""
    return _varint(timestamp, 1)[0] if timestamp[:1] == b"\x08" else 0


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Returns the length-delimited fields of a protobuf message, with their numbers."""
    found, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        size, at = _varint(message, at)  # of a varint field, this is the value
        if tag & 7 == 2:  # the wire type LEN
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the varint at an offset, and the offset of its end."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:  # the last byte
            return value, at


def _exchange(target: Target, path: bytes, timeout: float) -> bytes:
    """Calls a method with an empty request. Returns the reply with its five-byte prefix; raises what `_answer` raises."""
    with _connect(target, timeout) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _call(path, target.token))
        return _answer(connection, time.monotonic() + timeout)


def _connect(target: Target, timeout: float) -> socket.socket:
    address = target.address
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        plain = socket.create_connection((host, int(port)), timeout)
        return target.tls.wrap_socket(plain, server_hostname=target.server_name or host) if target.tls else plain
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
            *([b"\x1f\x08" + _text(b"Bearer " + token.encode())] if token else []),  # authorization, never indexed
        ]
    )
    return _frame(_HEADERS, _END_HEADERS, 1, fields) + _frame(_DATA, _END_STREAM, 1, b"\x00" * 5)


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """Returns the reply. Raises OSError, or _Refused if there is none."""
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
            raise _Refused("the call was rejected")
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
