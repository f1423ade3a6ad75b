"""AdminService: looking into a sidecar, emptying it, and changing its policy."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.core.dependencies import Failing
from cache_sidecar.core.errors import InvalidRequest, SettingsError
from cache_sidecar.core.garbage_collection import GENERATIONS, Collections
from cache_sidecar.services import policies
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspection
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
# Cache entries dropped in one go: as many as Redis does well within the time that one piece of work may take.
CHUNK = 500


class AdminService(AdminServiceServicer):
    """Operates on the datasets by name."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        policy: LivePolicy,
        inspections: Mapping[str, Inspection],
        degraded: Callable[[], Iterable[Failing]],
        collections: Collections,
        *,
        keys: Mapping[str, Callable[[str], Iterable[str]]],
    ) -> None:
        """`inspections` are those of the datasets that are inspected, `degraded` says what does not work now.

        `keys` says of a dataset that keeps an id in several cache entries what these are called.
        """
        self._keys = keys
        self._degraded = degraded
        self._collections = collections
        self._datasets = datasets
        self._policy = policy
        self._inspections = inspections

    async def Invalidate(self, request: pb.InvalidateRequest, context: Context) -> pb.InvalidateResponse:
        """Empties caches; PostgreSQL is not touched."""
        dataset = self._dataset(request.dataset)
        if request.all:
            return pb.InvalidateResponse(invalidated=await dataset.drop_all())
        ids = dict.fromkeys(request.ids)
        keys_of = self._keys.get(dataset.name)
        keys = iter(ids) if keys_of is None else (key for id in ids for key in keys_of(id))
        while chunk := list(islice(keys, CHUNK)):
            await dataset.drop(chunk)
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
                    unreadable=stats.unreadable,
                )
                for name in names
                for source, stats in self._datasets[name].stats().items()
            ],
            shadows=[_shadow(self._datasets[name]) for name in names],
            policy=policies.status(self._policy),
            inspections=[
                pb.InspectionStats(dataset=name, fresh=counts.fresh, stale=counts.stale, violations=counts.violations)
                for name, counts in sorted(self._inspections.items())
                if name in names
            ],
            degradations=[_degradation(one) for one in self._degraded()],
            tasks=len(asyncio.all_tasks()),
            collections=[_collection(self._collections, generation) for generation in range(GENERATIONS)],
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.GetPolicyResponse:
        """Returns the policy in force."""
        return pb.GetPolicyResponse(
            datasets=[policies.message(self._policy, name) for name in sorted(self._datasets)],
            status=policies.status(self._policy),
        )

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, context: Context) -> pb.UpdatePolicyResponse:
        """Puts values over those of the file."""
        name = self._dataset(request.policy.dataset, field="policy.dataset").name
        values, given_back = policies.values(request), policies.given_back(request)
        if not values and not given_back:
            raise InvalidRequest({"policy": "no field is set or named by a mask: there is nothing to change"})
        try:
            self._policy.override(name, values, give_back=given_back)
        except SettingsError as error:
            raise InvalidRequest({"policy": str(error)}) from None
        return pb.UpdatePolicyResponse(policy=policies.message(self._policy, name), status=policies.status(self._policy))

    def _dataset(self, name: str, *, field: str = "dataset") -> Dataset:
        if name not in self._datasets:
            known = ", ".join(sorted(self._datasets))
            raise InvalidRequest({field: f"there is no dataset {name[:64]!r}; there are: {known}"})
        return self._datasets[name]


def _degradation(failing: Failing) -> pb.Degradation:
    since = Timestamp()
    since.FromMilliseconds(int(failing.since * 1000))
    return pb.Degradation(
        what=failing.what, which=failing.which, effect=failing.effect, reason=failing.reason, since_time=since
    )


def _collection(collections: Collections, generation: int) -> pb.CollectionStats:
    row = pb.CollectionStats(generation=generation, count=collections.counts[generation])
    row.longest_pause.FromNanoseconds(int(collections.longest[generation] * 1e9))
    return row


def _shadow(dataset: Dataset) -> pb.ShadowStats:
    shadow = dataset.rollout.shadow
    return pb.ShadowStats(
        dataset=dataset.name, compared=shadow.compared, mismatches=shadow.mismatches, left_out=shadow.left_out
    )
