"""Which of the replicas does what only one should do: a Lease (coordination.k8s.io/v1), as in client-go's leaderelection."""

import socket
from datetime import UTC, datetime
from uuid import uuid4

from cache_sidecar.core.clock import Clock
from cache_sidecar.injector.api import Api, Conflict, Missing, Object


class Lease:
    """A claim to be the only one, to be renewed more often than it lasts."""

    def __init__(self, api: Api, *, namespace: str, name: str, seconds: int, clock: Clock) -> None:
        self._api = api
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._seconds = seconds
        self._clock = clock
        self._holder = f"{socket.gethostname()}_{uuid4().hex[:8]}"
        # Whose renewal was seen last, and when by our own clock: the clocks of others are not compared with it.
        self._seen: tuple[object, object] | None = None
        self._seen_at = 0.0

    async def hold(self) -> bool:
        """Claims or renews it; returns whether it is ours now. Raises SidecarError when the API server cannot be asked."""
        try:
            known = await self._api.get(f"{self._leases}/{self._name}")
        except Missing:
            known = None
        now = self._clock.now()
        if known and not self._may_take(known["spec"], now):
            return False
        try:
            if known:
                await self._api.replace(f"{self._leases}/{self._name}", known | {"spec": self._spec(now)})
            else:
                await self._api.create(self._leases, {"metadata": {"name": self._name}, "spec": self._spec(now)})
        except Conflict:
            return False
        return True

    async def release(self) -> None:
        """Gives it up when it is ours, so that another need not wait until it runs out. Raises SidecarError."""
        path = f"{self._leases}/{self._name}"
        try:
            known = await self._api.get(path)
            if known["spec"].get("holderIdentity") == self._holder:
                await self._api.replace(path, known | {"spec": known["spec"] | {"holderIdentity": ""}})
        except (Conflict, Missing):
            return  # somebody else has it by now

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
