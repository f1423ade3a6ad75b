"""Events of Kubernetes, made in the background: the same warning again is counted, and too many at once are dropped."""

import asyncio

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.injector.api import Api, Conflict, Object
from cache_sidecar.injector.metrics import Metrics

_WAITING = 100


class Events:
    """A bounded queue in front of the API server."""

    def __init__(self, api: Api, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(_WAITING)

    def tell(self, event: Object) -> None:
        """Takes an event to make, or drops it when too many wait."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._metrics.failures.labels("events").inc()

    async def send(self) -> None:
        """Waits for the next event, and makes it. Raises SidecarError; an event that fails is not tried again."""
        event = await self._waiting.get()
        path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
        try:
            await self._api.create(path, event)
        except Conflict:
            await self._count(f"{path}/{event['metadata']['name']}", event["lastTimestamp"])

    async def _count(self, path: str, time: str) -> None:
        known = await self._api.get(path)
        count = known.get("count")
        body = {
            "count": (count if isinstance(count, int) else 1) + 1,
            "lastTimestamp": time,
            "metadata": {"resourceVersion": known["metadata"]["resourceVersion"]},
        }
        try:
            await self._api.patch(path, body)
        except Conflict as error:
            raise SidecarError(f"another replica counted the event at the same time: {error}") from None
