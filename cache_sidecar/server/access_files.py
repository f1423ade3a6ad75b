"""The files with tokens and with names of client certificates: an entry per line; empty lines and those with # are skipped."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from cache_sidecar.config import roles
from cache_sidecar.config.roles import Roles
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import read_file
from cache_sidecar.server import bearer

_TOKEN_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Token(NamedTuple):
    """A line of the tokens file."""

    value: bytes
    name: str
    "Empty if it has none."
    roles: Roles | None
    "None if none are given."


def read_tokens(file: str) -> list[Token]:
    """Returns the tokens of a file: one per line, as `TOKEN` or `NAME ROLE[,ROLE] TOKEN`. Raises SettingsError."""
    tokens: dict[bytes, Token] = {}
    for number, line in _lines("access_tokens_file", file, is_secret=True):
        try:
            token = _parse_token(line)
        except ValueError as error:
            raise SettingsError(f"access_tokens_file: line {number} of {file} {error}") from None
        if tokens.setdefault(token.value, token) != token:
            raise SettingsError(
                f"access_tokens_file: line {number} of {file} repeats the token of another line, with another name or roles"
            )
    if not tokens:
        raise SettingsError(f"access_tokens_file: {file} has no token, so every call would be refused")
    return list(tokens.values())


def _parse_token(line: bytes) -> Token:
    """Returns the token of a line. Raises ValueError, which repeats nothing of the line: any word of it may be a token."""
    *rest, value = line.split()
    if len(rest) not in {0, 2}:
        raise ValueError("must be TOKEN, or NAME ROLE[,ROLE] TOKEN")
    bearer.check_syntax(value)
    name, granted = _parse_name(*rest) if rest else ("", None)
    bearer.check_strength(value)
    return Token(value, name, granted)


def _parse_name(name: bytes, given: bytes) -> tuple[str, Roles]:
    if not _TOKEN_NAME.fullmatch(name):
        raise ValueError("must begin with a name of at most 64 letters, digits and ._-, in NAME ROLE[,ROLE] TOKEN")
    try:
        return name.decode(), roles.parse(given.decode(errors="replace"))
    except ValueError as error:
        raise ValueError(f"must have roles as its second word, in NAME ROLE[,ROLE] TOKEN: {error}") from None


def read_clients(file: str) -> dict[str, Roles | None]:
    """Returns the names of a file with their roles: one per line, as `NAME` or `NAME ROLE[,ROLE]`. Raises SettingsError."""
    found: dict[str, Roles | None] = {}
    for number, line in _lines("allowed_clients_file", file):
        try:
            roles.add_client(found, line.decode())
        except ValueError as error:
            raise SettingsError(f"allowed_clients_file: line {number} of {file}: {error}") from None
    if not found:
        raise SettingsError(f"allowed_clients_file: {file} has no name, so every call would be refused")
    return found


def _lines(setting: str, file: str, *, is_secret: bool = False) -> Iterator[tuple[int, bytes]]:
    try:
        lines = read_file(file, is_secret=is_secret).splitlines()
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {file}: {error.strerror}") from None
    for number, line in enumerate(map(bytes.strip, lines), 1):
        if line and not line.startswith(b"#"):
            yield number, line
