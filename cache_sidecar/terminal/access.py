"""How the commands call a sidecar."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc

from cache_sidecar.core.errors import InputError, ServerUnreachable, SidecarError

# Seconds.
TIMEOUT = 5.0
R = TypeVar("R")


class Access(NamedTuple):
    """The sidecar to call, and how."""

    address: str
    "host:port, or unix:/path/of/the/socket."
    ca: bytes | None = None
    "The CA to trust, in PEM; without one, there is no TLS."
    cert: bytes | None = None
    key: bytes | None = None
    "With `cert`, the client certificate, in PEM."
    server_name: str = ""
    "The name in the sidecar's certificate, if it differs from the host."
    token: str = ""

    @classmethod
    def read(
        cls,
        address: str,
        *,
        ca: Path | None,
        cert: Path | None,
        key_file: Path | None,
        server_name: str,
        token_file: Path | None,
        role: str = "admin",
    ) -> "Access":
        """Reads the files; of several tokens, takes one with the role. Raises InputError."""
        if (cert is None) != (key_file is None) or (cert is not None and ca is None):
            raise InputError("--cert and --key must be used together, and with --ca")
        try:
            ca_pem, cert_pem, key_pem = (None if file is None else file.read_bytes() for file in (ca, cert, key_file))
            token = "" if token_file is None else _first_token(token_file.read_text(), role)
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
        except ValueError:
            raise InputError(f"{token_file} is not a text file") from None
        return cls(address, ca_pem, cert_pem, key_pem, server_name, token)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[grpc.aio.Channel]:
        """Opens a channel."""
        options = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        if self.ca is None:
            made = grpc.aio.insecure_channel(self.address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
            made = grpc.aio.secure_channel(self.address, credentials, options=options)
        async with made as channel:
            yield channel

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    async def ask(self, call: Awaitable[R]) -> R:
        """Returns the reply of a call. Raises ServerUnreachable, or SidecarError with the sidecar's own words."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise ServerUnreachable(f"the sidecar at {self.address} does not answer: {error.details()}") from None
            raise SidecarError(f"{error.code().name}: {error.details()}") from None


def _first_token(text: str, role: str) -> str:
    """Returns the first token with a role in the format of `access_tokens_file`, or else the first; empty for none."""
    lines = [words for words in map(str.split, text.splitlines()) if words and not words[0].startswith("#")]
    named = [words for words in lines if len(words) == 3 and role in words[1].replace("+", ",").split(",")]
    return next((words[-1] for words in (*named, *lines)), "")
