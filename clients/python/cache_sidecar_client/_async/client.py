"""The client."""

from types import TracebackType
from typing import Self

from cache_sidecar_client._async.admin import Admin
from cache_sidecar_client._async.caller import Caller
from cache_sidecar_client._async.carts import Carts
from cache_sidecar_client._async.events import Events
from cache_sidecar_client._async.inventory import Inventories
from cache_sidecar_client._async.products import Products
from cache_sidecar_client._async.recommendations import RecommendationLists
from cache_sidecar_client._async.sessions import Sessions
from cache_sidecar_client.options import Options


class Client:
    """A client of one sidecar. It belongs to the process, and the event loop, that uses it; close it."""

    def __init__(self, options: Options) -> None:
        self._caller = Caller(options)
        self.options = options
        self.products = Products(self._caller)
        self.sessions = Sessions(self._caller)
        self.carts = Carts(self._caller)
        self.inventory = Inventories(self._caller)
        self.recommendations = RecommendationLists(self._caller)
        self.events = Events(self._caller)
        self.admin = Admin(self._caller)

    @property
    def fallbacks(self) -> int:
        """How many calls were answered by the application's own loaders."""
        return self._caller.fallbacks

    async def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Waits until the sidecar can serve; raises Unavailable if it cannot after `timeout` seconds.

        There is no need to: calls wait for a sidecar that starts as long as their deadlines allow.
        """
        await self._caller.wait_until_ready(timeout)

    async def close(self) -> None:
        """Ends all calls and watches, which raise ClientClosed, and closes the connection."""
        await self._caller.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def connect(address: str | None = None, *, options: Options | None = None) -> Client:
    """Returns a client. It connects with its first call.

    `address` is host:port or unix:/path; without one, the sidecar is found as `Options.address` says.
    """
    options = options or Options()
    if address is not None:
        options = options.at(address)
    return Client(options)
