"""Clients that poll how many operations on Redis and PostgreSQL failed in each sidecar; see `rules/told.py`."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import grpc

from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.consistency.load import Load
from tests.consistency.rules.told import Look

# Seconds between two polls.
EVERY = 0.2


class Looker:
    """Polls one sidecar."""

    def __init__(self, load: Load, sidecar: int, channels: Mapping[int, grpc.aio.Channel]) -> None:
        self._load = load
        self._sidecar = sidecar
        stub: Any = AdminServiceStub(channels[sidecar])  # type: ignore[no-untyped-call]
        self._get_stats = stub.GetStats

    async def run(self) -> None:
        """Polls until it is stopped."""
        while not self._load.is_stopping:
            outcome = await self._load.call("admin", self._sidecar, self._get_stats, GetStatsRequest())
            if outcome.reply is not None:
                errors: Counter[str] = Counter()
                for tier in outcome.reply.tiers:
                    errors[tier.tier] += tier.errors
                is_behind = any(one.what == "relay" for one in outcome.reply.degradations)
                look = Look(outcome.called, outcome.replied, errors["l2"], errors["store"], is_behind)
                self._load.rules.told.looked(outcome.process, look)
            await asyncio.sleep(EVERY)
