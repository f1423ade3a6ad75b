"""How a client reaches its sidecar, and how it behaves."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from cache_sidecar_client._reread import Reread
from cache_sidecar_client._tls import tls_files

# RFC 6750, 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
DEFAULT_ADDRESS = "127.0.0.1:50051"
SOCKET = "/run/cache-sidecar/grpc.sock"
"Where the injector mounts the sidecar's Unix socket."
MIB = 1024 * 1024


@dataclass(frozen=True)
class L0:
    """The client's own cache of products, fed by a watch: see `Options.l0`."""

    max_entries: int = 10_000
    max_age: float = 5.0
    "In seconds since the content was known to match PostgreSQL: nothing older is returned, whatever the watch says."


@dataclass(frozen=True)
class Call:
    """What `Options.on_call` is told of each call, after its last attempt."""

    method: str
    "Such as `ProductService/GetProduct`."
    seconds: float
    "From the call to its result, with all attempts and pauses."
    attempts: int
    code: grpc.StatusCode
    reason: str
    "The reason of the error; empty for success."
    fallback: bool
    "Whether the application's own loader answered."


@dataclass(frozen=True)
class Options:
    """All settings of a client. The defaults suit a sidecar that the injector has put beside the application."""

    address: str | None = None
    "host:port, or unix:/path. None: CACHE_SIDECAR_ADDRESS, CACHE_SIDECAR_SOCKET, the injector's socket, 127.0.0.1:50051."
    ca: str | None = None
    "Path of the CAs that sign the sidecar's certificate; makes the client use TLS. All three are read again when they change."
    cert: str | None = None
    "Path of the client's certificate, for mutual TLS."
    key: str | None = None
    "Path of its private key."
    server_name: str | None = None
    "The name in the sidecar's certificate, if it differs from the address."
    token_file: str | None = None
    "Path of a file with a token. It is read again when it changes."
    read_timeout: float = 2.0
    "The deadline of reads, in seconds, unless the call has one."
    write_timeout: float = 5.0
    admin_timeout: float = 30.0
    "The deadline of `admin.invalidate`, `admin.update_policy`, and of each request of an import."
    receive_limit: int = 64 * MIB + 64 * 1024
    "The largest reply in bytes: by default the largest that a sidecar can be configured to send."
    join: bool = False
    "Whether `products.get` calls of one turn of the event loop go out as one BatchGetProducts; of threads, see join_window."
    join_window: float = 0.0003
    "Without asyncio: how long the first of joined calls waits for those of other threads, in seconds."
    l0: L0 | None = None
    "The client's own cache of products; None for none."
    fallback_after: float = 0.5
    "How long a call with a fallback waits for the sidecar, in seconds."
    max_fallbacks: int = 16
    "How many loaders run at once. Beyond that, calls fail as without a fallback, so that the database is not overrun."
    on_call: Callable[[Call], None] | None = None
    "Called after each call, for metrics."
    metadata: Callable[[], Iterable[tuple[str, str]]] | None = None
    "Returns metadata for each attempt, such as `traceparent`."

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key belong together: set both, or neither")
        if self.cert and not self.ca:
            raise ValueError("a client certificate needs TLS: set ca, too")

    @property
    def target(self) -> str:
        """The address, resolved."""
        if self.address:
            return self.address
        if address := os.environ.get("CACHE_SIDECAR_ADDRESS"):
            return address
        path = os.environ.get("CACHE_SIDECAR_SOCKET") or SOCKET
        if os.environ.get("CACHE_SIDECAR_SOCKET") or _is_socket(path):
            return f"unix:{path}"
        return DEFAULT_ADDRESS

    def at(self, address: str) -> "Options":
        """Returns the same options for another address."""
        return replace(self, address=address)

    def tls_files(self) -> Reread[grpc.ChannelCredentials] | None:
        """Returns the files of the channel; None without TLS. Raises OSError or ValueError for files that cannot be used."""
        if not self.ca or self.target.startswith("unix:"):
            return None
        return tls_files(self.ca, self.cert, self.key)

    def channel_arguments(self) -> list[tuple[str, str | int]]:
        """Returns gRPC's arguments of the channel."""
        arguments: list[tuple[str, str | int]] = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_receive_message_length", self.receive_limit),
            ("grpc.max_send_message_length", -1),
            # Two clients of one process share no connection: to close one closes it, and its files are its own.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.service_config_disable_resolution", 1),
        ]
        if self.server_name:
            arguments += [("grpc.ssl_target_name_override", self.server_name), ("grpc.default_authority", self.server_name)]
        return arguments


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  # pathlib says False instead of raising, from 3.12 on
    except OSError:
        return False


class TokenFile:
    """A token that is read again when its file changes: looked at once a second, and when the sidecar refuses it."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError if the file has no token."""
        file = Path(path)

        def read() -> tuple[tuple[str, str], ...]:
            return (("authorization", f"Bearer {_token(file.read_text())}"),)

        problem = f"token_file {str(file)!r} has no token"
        try:
            self._file = Reread([file], read, ignored=f"{problem}, that from before stays in use", clock=clock)
        except (OSError, ValueError) as error:
            raise ValueError(f"{problem}: {error}") from None

    def metadata(self, *, look: bool = False) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of a call."""
        self._file.look(now=look)
        return self._file.value


def _token(text: str) -> str:
    """Returns the token in the first line that has one: `TOKEN`, or `NAME ROLES TOKEN` as in the sidecar's own file."""
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            # Of others gRPC makes errors that do not say what is wrong.
            if not _TOKEN.fullmatch(words[-1]):
                raise ValueError("a token has only letters, digits and -._~+/")
            return words[-1]
    raise ValueError("it is empty")
