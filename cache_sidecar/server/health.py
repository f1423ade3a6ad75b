"""grpc.health.v1: whether each service is served. Load balancers and Kubernetes ask it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from cache_sidecar.core.errors import Draining, NotFound

Context = grpc.aio.ServicerContext[Any, Any]


class HealthService(HealthServicer):
    """Tells of services by their full names, and of the whole sidecar by the empty name."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._draining = False
        self._changed = asyncio.Event()

    def serve(self, names: Iterable[str]) -> None:
        """Says that these services, and so the whole, are served."""
        self._known = frozenset(["", *names])
        self._tell()

    def drain(self) -> None:
        """Says that nothing is served any more; those who watch are told, then their streams end."""
        self._draining = True
        self._tell()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """Returns the status of one service. Raises NotFound for one that is not here."""
        if request.service not in self._known:
            raise NotFound("service", request.service)
        return HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:
        """Yields the status of one service now, and whenever it changes."""
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            elif self._draining:
                raise Draining
            else:
                await self._wait(changed)

    async def _wait(self, changed: asyncio.Event) -> None:
        try:
            await changed.wait()
        except asyncio.CancelledError:
            # Draining ends all streams this way; here the last word comes first.
            if not self._draining:
                raise

    def _status(self, name: str) -> int:
        if name not in self._known:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.NOT_SERVING if self._draining else HealthCheckResponse.SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
