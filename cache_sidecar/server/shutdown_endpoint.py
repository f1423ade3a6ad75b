"""`POST /quit` on the loopback interface, by which the application of a Job stops its sidecar when it is done.

Only needed before Kubernetes 1.29, which stops native sidecars itself. It asks for a token in a file that only the pod's
containers have, because others reach the loopback interface, too: a web page in the browser of a developer's machine, or a
program in the pod that can be made to send requests. The Host header must be a loopback name, so that a page whose own name
resolves to 127.0.0.1 (DNS rebinding) is refused before anything is looked at.
"""

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.watched_files import read_file
from cache_sidecar.server import bearer, http
from cache_sidecar.server.http import Request

_SECONDS = 5.0
_LONGEST_TOKEN = 4096
# Seconds between two audit lines for refused requests.
_REFUSAL_EVERY = 1.0
_LOOPBACK_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)


@contextlib.asynccontextmanager
async def listening(address: str, token_file: str, stop: asyncio.Event) -> AsyncIterator[None]:
    """Within the context, sets `stop` on request; does nothing without an address.

    Writes a random token into the file, which must be set, if it does not exist. Raises SettingsError.
    """
    if not address:
        yield
        return
    async with http.listening("quit_address", address, _Endpoint(token_file, stop).answer, limit=4096):
        yield


class _Endpoint:
    def __init__(self, token_file: str, stop: asyncio.Event) -> None:
        self._file = token_file
        self._stop = stop
        self._token = _read_or_create(token_file)
        self._refusals = LogLimit(every=_REFUSAL_EVERY)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the only request of a connection."""
        with contextlib.suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_SECONDS):
                status, text = self._judge(await http.read_request(reader))
                more = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
                writer.write(http.response(status, f"{text}\n".encode(), more))
                self._record(status, writer.get_extra_info("peername"))
                await writer.drain()
                if status is HTTPStatus.OK:
                    self._stop.set()
        writer.close()

    def _judge(self, request: Request) -> tuple[HTTPStatus, str]:
        headers = request.headers
        if len(headers["host"]) != 1 or not _LOOPBACK_HOST.fullmatch(headers["host"][0]):
            return HTTPStatus.FORBIDDEN, "the Host header must be localhost, 127.0.0.1 or [::1]"
        if (request.method, request.target) != ("POST", "/quit"):
            return HTTPStatus.NOT_FOUND, "POST /quit"
        self._reload()
        tokens = [bearer.token_of(value) for value in headers["authorization"]]
        if not any(token is not None and bearer.is_same(token, self._token) for token in tokens):
            return HTTPStatus.UNAUTHORIZED, "send `Authorization: Bearer TOKEN` with the token in the file of quit_token_file"
        return HTTPStatus.OK, "stopping"

    def _reload(self) -> None:
        try:
            self._token = _read(self._file)
        except SettingsError as error:
            telemetry.log.error("invalid token for POST /quit ignored; the previous one stays valid", error=str(error))

    def _record(self, status: HTTPStatus, peer: object) -> None:
        if status is HTTPStatus.OK:
            telemetry.audit.info("quit", peer=str(peer), result="OK")
        elif status is not HTTPStatus.NOT_FOUND and self._refusals.should_log():
            telemetry.audit.info("quit refused", peer=str(peer), result=status.phrase, count=self._refusals.count)


def _read_or_create(file: str) -> bytes:
    """Returns the token of a file. If there is none, first writes one that the process's user and group can read."""
    try:
        if not Path(file).exists():
            new = f"{file}.{os.getpid()}"
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as opened:
                os.fchmod(opened.fileno(), 0o640)
                opened.write(f"{secrets.token_urlsafe(32)}\n")
            Path(new).replace(file)
    except OSError as error:
        raise SettingsError(f"quit_token_file: cannot write {file}: {error.strerror}") from None
    return _read(file)


def _read(file: str) -> bytes:
    try:
        token = read_file(file, _LONGEST_TOKEN, is_secret=True).strip()
    except OSError as error:
        raise SettingsError(f"quit_token_file: cannot read {file}: {error.strerror}") from None
    try:
        bearer.check_syntax(token)
        bearer.check_strength(token)
    except ValueError as error:
        raise SettingsError(f"quit_token_file: {file} {error}") from None
    return token
