"""What hosts the services: of `grpc.aio.Server` what is used of it, and what an engine can do beside."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cache_sidecar.server.auth import Access
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import L1


class Engine(Protocol):
    """A server without services and ports at first; see `engines/`. What is added comes before the first port."""

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Is called by generated code beside `add_registered_method_handlers`, with the same methods."""
        ...

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        ...

    def prioritize(self, service: str, priority: Priority) -> None:
        """Says how important the calls for a service are when there are too many."""
        ...

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Has hits of these methods of a service answered from a dataset's L1, as far as the engine can."""
        ...

    def limit_access(self, access: Access) -> None:
        """Has hits answered to those only who may call."""
        ...

    def policy_changed(self) -> None:
        """Applies the policies that are now in force."""
        ...

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError when that is not possible."""
        ...

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port` for host:port, with TLS. Raises SettingsError when the certificate cannot be used."""
        ...

    async def start(self) -> None:
        """Serves."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Lets calls in progress finish within so many seconds; nothing new begins."""
        ...
