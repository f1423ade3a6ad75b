"""Leader election among the replicas with a Lease (coordination.k8s.io/v1), as in client-go's leaderelection."""

import socket
from datetime import UTC, datetime
from uuid import uuid4

from cache_sidecar.core.clock import Clock
from cache_sidecar.injector.api import Api, Conflict, Missing, Object, path_of


class Lease:
    """A leader's lease; the leader must renew it before `seconds` have passed."""

    def __init__(self, api: Api, *, namespace: str, name: str, seconds: int, clock: Clock) -> None:
        self._api = api
        self._leases = path_of("apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases")
        self._lease = self._leases + path_of(name)
        self._name = name
        self._seconds = seconds
        self._clock = clock
        self._holder = f"{socket.gethostname()}_{uuid4().hex[:8]}"
        # The last renewal observed, and when, by our own clock: clocks of different machines are never compared.
        self._seen: tuple[object, object] | None = None
        self._seen_at = 0.0

    async def hold(self) -> bool:
        """Acquires or renews the lease. Returns whether this replica holds it. Raises SidecarError if a call fails."""
        try:
            known = await self._api.get(self._lease)
        except Missing:
            known = None
        now = self._clock.now()
        if known and not self._may_take(known["spec"], now):
            return False
        try:
            if known:
                await self._api.replace(self._lease, known | {"spec": self._spec(now)})
            else:
                await self._api.create(self._leases, {"metadata": {"name": self._name}, "spec": self._spec(now)})
        except Conflict:
            return False
        return True

    async def release(self) -> None:
        """Releases the lease if this replica holds it, so that another need not wait for its expiry. Raises SidecarError."""
        try:
            known = await self._api.get(self._lease)
            if known["spec"].get("holderIdentity") == self._holder:
                await self._api.replace(self._lease, known | {"spec": known["spec"] | {"holderIdentity": ""}})
        except (Conflict, Missing):
            return  # another replica has acquired it

    def _may_take(self, spec: Object, now: float) -> bool:
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if holder == self._holder or not holder:
            return True
        if self._seen != (holder, renewed):
            self._seen, self._seen_at = (holder, renewed), now
        return now - self._seen_at > self._seconds

    def _spec(self, now: float) -> Object:
        renewed = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._holder, "leaseDurationSeconds": self._seconds, "renewTime": renewed}
