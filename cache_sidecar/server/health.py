"""grpc.health.v1, for load balancers and Kubernetes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from cache_sidecar.core.errors import Draining, NotFound

Context = grpc.aio.ServicerContext[Any, Any]


class HealthService(HealthServicer):
    """Reports the status of services by full name, and of the whole sidecar by the empty name."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._draining = False
        self._changed = asyncio.Event()

    def serve(self, names: Iterable[str]) -> None:
        """Reports these services, and the sidecar, as serving."""
        self._known = frozenset(["", *names])
        self._notify()

    def drain(self) -> None:
        """Reports everything as not serving; watchers get this status before their streams end."""
        self._draining = True
        self._notify()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """Returns the status of a service. Raises NotFound for an unknown one."""
        if request.service not in self._known:
            raise NotFound("service", request.service)
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:
        """Yields the status of a service, now and whenever it changes."""
        sent = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != sent:
                yield HealthCheckResponse(status=status)
                sent = status
            elif self._draining:
                raise Draining
            else:
                await self._wait(changed)

    async def _wait(self, changed: asyncio.Event) -> None:
        try:
            await changed.wait()
        except asyncio.CancelledError:
            # Draining cancels all streams; this one sends NOT_SERVING before it ends.
            if not self._draining:
                raise

    def _status(self, name: str) -> int:
        if name not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.NOT_SERVING if self._draining else HealthCheckResponse.SERVING

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
