"""Which sidecars there are, and how each is asked."""

from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import aiohttp

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.dashboard import readings
from cache_sidecar.dashboard.readings import Figures
from cache_sidecar.injector.api import Api, path_of
from cache_sidecar.injector.config import ApiConfig
from cache_sidecar.terminal import status
from cache_sidecar.terminal.access import TIMEOUT, Access

# Bytes of metrics that are read of a sidecar, some ten times what it has.
MAX_METRICS = 4 * 1024 * 1024


class Target(NamedTuple):
    """A sidecar."""

    name: str
    "What the page shows, such as `NAMESPACE/POD`."
    address: str
    "Of gRPC, `host:port` or `unix:/path`; or of metrics, `http://host:port`."


class Found(Protocol):
    """Where the targets come from."""

    async def find(self) -> list[Target]:
        """Returns the sidecars that there are now. Raises SidecarError."""
        ...


class Listed:
    """Sidecars at addresses that somebody has listed."""

    def __init__(self, addresses: list[str]) -> None:
        """Raises InputError for an address that is none."""
        self._targets = [Target(one, check_address(one)) for one in dict.fromkeys(addresses)]

    async def find(self) -> list[Target]:
        """Returns them."""
        return self._targets


class Pods:
    """Sidecars of pods that have a label, by their metrics: their gRPC ports are open to their own pods only."""

    def __init__(self, config: ApiConfig, selector: str, namespaces: list[str], *, port: int) -> None:
        """Without namespaces, those of all are found."""
        self._config = config
        self._selector = selector
        self._namespaces = namespaces
        self._port = port

    async def find(self) -> list[Target]:
        """Returns the pods that run. Raises ServerUnreachable or ApiRefused."""
        paths = [path_of("api", "v1", "namespaces", one, "pods") for one in self._namespaces] or [path_of("api", "v1", "pods")]
        async with Api(self._config) as api:
            pods = [pod for path in paths for pod in await api.items(path, labelSelector=self._selector)]
        return [self._target(pod) for pod in pods if _runs(pod)]

    def _target(self, pod: dict[str, Any]) -> Target:
        ip, metadata = pod["status"]["podIP"], pod["metadata"]
        host = f"[{ip}]" if ":" in ip else ip
        return Target(f"{metadata.get('namespace', '')}/{metadata['name']}", f"http://{host}:{self._port}")


def _runs(pod: dict[str, Any]) -> bool:
    state = pod.get("status") or {}
    return bool(state.get("podIP")) and state.get("phase") not in {"Succeeded", "Failed"}


def check_address(address: str) -> str:
    """Returns an address. Raises InputError."""
    if address.startswith("unix:"):
        return address
    split = urlsplit(address if "://" in address else f"grpc://{address}")
    try:
        is_address = split.scheme in {"grpc", "http"} and bool(split.hostname) and bool(split.port) and split.path in {"", "/"}
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"{address!r} must be HOST:PORT or unix:/path of gRPC, or http://HOST:PORT of the metrics")
    return address.removesuffix("/")


class Asking:
    """Asks sidecars, over connections that stay open from one look to the next; an async context manager."""

    def __init__(self, access: Access) -> None:
        """`access` says how sidecars are called by gRPC; its address is not used."""
        self._access = access
        self._open = AsyncExitStack()
        self._channels: dict[str, tuple[AsyncExitStack, Any]] = {}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        # A redirect could lead anywhere, and none is needed.
        self._http = await self._open.enter_async_context(aiohttp.ClientSession(timeout=timeout, trust_env=False))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.forget(set(self._channels))
        await self._open.aclose()

    async def forget(self, addresses: set[str]) -> None:
        """Closes the connections to sidecars that are no longer there."""
        for address in addresses & self._channels.keys():
            stack, _ = self._channels.pop(address)
            await stack.aclose()

    async def ask(self, target: Target) -> Figures:
        """Returns what a sidecar says. Raises SidecarError with the reason if it says nothing."""
        if target.address.startswith("http://"):
            return readings.of_metrics(await self._metrics(target.address))
        access = self._access._replace(address=target.address)
        if target.address not in self._channels:
            stack = AsyncExitStack()
            self._channels[target.address] = stack, await stack.enter_async_context(access.open())
        return readings.of_status(await status.read(access, self._channels[target.address][1]))

    async def _metrics(self, address: str) -> str:
        try:
            async with self._http.get(f"{address}/metrics", allow_redirects=False) as reply:
                if reply.status != HTTPStatus.OK:
                    raise ServerUnreachable(f"GET {address}/metrics is answered with {reply.status}")
                return await _text(reply)
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
            raise ServerUnreachable(f"GET {address}/metrics: {str(error) or 'no answer in time'}") from None


async def _text(reply: aiohttp.ClientResponse) -> str:
    found = bytearray()
    async for part in reply.content.iter_any():
        found += part
        if len(found) > MAX_METRICS:
            raise ServerUnreachable(f"what is served at /metrics is larger than {MAX_METRICS} bytes")
    return found.decode()
