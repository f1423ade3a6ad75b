"""AdminService: looking into a sidecar, and emptying it."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from cache_sidecar.errors import InvalidRequest
from cache_sidecar.policy import DatasetPolicy
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
# Ids dropped in one go: as many as Redis does well within the time that one piece of work may take.
CHUNK = 500


class AdminService(AdminServiceServicer):
    """Operates on the datasets by name."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = datasets

    async def Invalidate(self, request: pb.InvalidateRequest, context: Context) -> pb.InvalidateResponse:
        """Empties caches; PostgreSQL is not touched."""
        dataset = self._dataset(request.dataset)
        if request.all:
            return pb.InvalidateResponse(invalidated=await dataset.drop_all())
        ids = list(dict.fromkeys(request.ids))
        for start in range(0, len(ids), CHUNK):
            await dataset.drop(ids[start : start + CHUNK])
        return pb.InvalidateResponse(invalidated=len(ids))

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """Returns the counters of one dataset or of all."""
        names = [self._dataset(request.dataset).name] if request.dataset else sorted(self._datasets)
        return pb.GetStatsResponse(
            tiers=[
                pb.TierStats(
                    dataset=name,
                    tier=source.name.lower(),
                    hits=stats.counters.hits,
                    misses=stats.counters.misses,
                    fills=stats.counters.fills,
                    evictions=stats.evictions,
                    entries=stats.entries,
                    bytes=stats.bytes,
                    loads=stats.loads,
                    coalesced=stats.coalesced,
                    errors=stats.counters.errors,
                )
                for name in names
                for source, stats in self._datasets[name].stats().items()
            ]
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.GetPolicyResponse:
        """Returns the policy in force."""
        return pb.GetPolicyResponse(
            datasets=[_policy(name, dataset.policy()) for name, dataset in sorted(self._datasets.items())]
        )

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            known = ", ".join(sorted(self._datasets))
            raise InvalidRequest({"dataset": f"there is no dataset {name[:64]!r}; there are: {known}"})
        return self._datasets[name]


def _policy(name: str, policy: DatasetPolicy) -> pb.DatasetPolicy:
    return pb.DatasetPolicy(
        dataset=name,
        l1_soft_ttl=_duration(policy.l1_soft_ttl),
        l1_hard_ttl=_duration(policy.l1_hard_ttl),
        l2_ttl=_duration(policy.l2_ttl),
        jitter=policy.jitter,
        negative_ttl=_duration(policy.negative_ttl),
        stale_limit=_duration(policy.stale_limit),
        max_lifetime=_duration(policy.max_lifetime),
        staleness_bound=_duration(policy.staleness_bound),
        inspect_every=policy.inspect_every,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
