"""Creates Kubernetes Events in the background. Repeated warnings are counted; when the queue is full, events are dropped."""

import asyncio

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.injector.api import Api, Conflict, Object, path_of
from cache_sidecar.injector.metrics import Metrics

_WAITING = 100


class Events:
    """A bounded queue in front of the API server."""

    def __init__(self, api: Api, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(_WAITING)

    def enqueue(self, event: Object) -> None:
        """Adds an event to the queue, or drops it if the queue is full."""
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self._metrics.failures["events"] += 1

    async def send(self) -> None:
        """Waits for the next event and creates it. Raises SidecarError; a failed event is not retried."""
        event = await self._waiting.get()
        events = "api", "v1", "namespaces", event["metadata"]["namespace"], "events"
        try:
            await self._api.create(path_of(*events), event)
        except Conflict:
            await self._count(path_of(*events, event["metadata"]["name"]), event["lastTimestamp"])

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
