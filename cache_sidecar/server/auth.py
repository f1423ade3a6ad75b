"""Who may call: whoever shows a valid token, and by mutual TLS clients whose certificates have one of the names allowed.

Each call is asked, except grpc.health.v1, so that probes and load balancers need no token. The native engine asks for hits
itself, see `native/src/access.rs`; every other call, and every refusal, is decided here.
"""

import hmac
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Self

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import ClientNotAllowed, SettingsError, Unauthenticated
from cache_sidecar.core.watched_files import WatchedFiles

# RFC 6750, 2.1.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_SCHEME = "bearer "
# Of a certificate, what names without :// are compared with.
_NAMES = ("peer_dns", "peer_email", "peer_ip")

TakeTokens = Callable[[list[bytes]], None]


class Access:
    """The tokens, which are read again when their file changes, and the names."""

    def __init__(self, tokens_file: str = "", allowed_clients: Collection[str] = ()) -> None:
        """Without a file no token is needed, and without names no name. Raises SettingsError."""
        self._file = tokens_file
        self._watched = WatchedFiles(tokens_file)
        self._followers: list[TakeTokens] = []
        self._tokens = _read(tokens_file) if tokens_file else []
        self.allowed_clients = frozenset(allowed_clients)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Returns what the settings ask for; None when whoever can connect may call. Raises SettingsError."""
        if not settings.access_tokens_file and not settings.allowed_clients:
            return None
        return cls(settings.access_tokens_file, settings.allowed_clients)

    def follow(self, take: TakeTokens) -> None:
        """Gives the tokens to somebody, now and whenever they change, where any is needed."""
        self._followers.append(take)
        if self._file:
            take(self._tokens)

    def look(self) -> None:
        """Reads the tokens again if their file has changed."""
        if not self._file or not self._watched.have_changed():
            return
        try:
            self._tokens = _read(self._file)
        except SettingsError as error:
            telemetry.log.error("invalid tokens file ignored; the previous tokens stay valid", error=str(error))
            return
        for take in self._followers:
            take(self._tokens)
        telemetry.log.info("tokens loaded", file=self._file, count=len(self._tokens))

    def check(self, context: Any) -> None:
        """Raises Unauthenticated or ClientNotAllowed for a call, given its context, that may not be made."""
        if self._file:
            self._check_token(context.invocation_metadata() or ())
        # Who may use the unix socket is said by its mode and group.
        if self.allowed_clients and not context.peer().startswith("unix:"):
            self._check_client(context)

    def _check_token(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        shown = [value for key, value in metadata if key == "authorization" and isinstance(value, str)]
        tokens = [value[len(_SCHEME) :].encode() for value in shown if value[: len(_SCHEME)].lower() == _SCHEME]
        # All are compared, so that how long it takes tells nothing.
        if not sum(hmac.compare_digest(token, known) for token in tokens for known in self._tokens):
            raise Unauthenticated(had_token=bool(tokens))

    def _check_client(self, context: Any) -> None:
        properties = context.auth_context()
        uris = {name.decode() for name in properties.get("peer_uri", ())}
        others = {name.decode() for kind in _NAMES for name in properties.get(kind, ())}
        # A name of one kind must not pass for one of another: an authority may be careless with some.
        if not any(name in (uris if "://" in name else others) for name in self.allowed_clients):
            raise ClientNotAllowed(", ".join(sorted(uris | others)))


def _read(file: str) -> list[bytes]:
    """Returns the tokens of a file: one on each line, apart from empty ones and those that begin with #."""
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"access_tokens_file: cannot read {file}: {error.strerror}") from None
    tokens = []
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if not line or line.startswith(b"#"):
            continue
        if not _TOKEN.fullmatch(line):
            raise SettingsError(f"access_tokens_file: line {number} of {file} must be a token: letters, digits and -._~+/ only")
        tokens.append(line)
    if not tokens:
        raise SettingsError(f"access_tokens_file: {file} holds no token, so nobody could call")
    return tokens
