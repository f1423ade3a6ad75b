"""AdminService: inspects a sidecar, empties its caches, and changes its policy."""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from cache_sidecar.config.live_policy import LivePolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Failing
from cache_sidecar.core.errors import InvalidRequest, SettingsError
from cache_sidecar.core.garbage_collection import GENERATIONS, Collections
from cache_sidecar.core.log_level import LogLevel
from cache_sidecar.services import held_keys, policies, sidecar_stats
from cache_sidecar.services.event_writer import EventCounts
from cache_sidecar.services.shared.timestamps import datetime_of, timestamp
from cache_sidecar.services.sidecar_stats import SidecarFacts
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.inspector import Inspection
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
# Cache entries dropped at once: as many as Redis handles well within the time limit of one command.
CHUNK = 500
# Ids of one request in the audit log, and the characters of a name there.
AUDITED_IDS = 10
MAX_NAME = 128
# Seconds for which the level of the log is changed if the request does not say.
LOG_LEVEL_FOR = 900.0


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
        private: Collection[str],
        events: Callable[[], EventCounts],
        sidecar: Callable[[], SidecarFacts],
        log_level: LogLevel,
        clock: Clock,
    ) -> None:
        """`inspections` are those of the datasets that are inspected, `degraded` returns the dependencies that are failing.

        `keys` returns, for datasets that keep an id in several cache entries, the keys of these. `private` are the datasets
        whose ids belong to people. `sidecar` describes the sidecar itself.
        """
        self._sidecar = sidecar
        self._log_level = log_level
        self._clock = clock
        self._private = private
        self._events = events
        self._keys = keys
        self._degraded = degraded
        self._collections = collections
        self._datasets = datasets
        self._policy = policy
        self._inspections = inspections

    async def Invalidate(self, request: pb.InvalidateRequest, context: Context) -> pb.InvalidateResponse:
        """Empties caches; PostgreSQL is not changed."""
        dataset = self._dataset(request.dataset)
        if request.all:
            return pb.InvalidateResponse(invalidated=await dataset.drop_all())
        ids = dict.fromkeys(request.ids)
        keys = (key for id in ids for key in self._keys_of(dataset, id))
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
                    newer=stats.counters.newer,
                    unsigned=stats.unsigned,
                )
                for name in names
                for source, stats in self._datasets[name].stats().items()
            ],
            shadows=[_shadow(self._datasets[name]) for name in names],
            policy=policies.make_status(self._policy),
            inspections=[
                pb.InspectionStats(
                    dataset=name, fresh=counts.fresh, stale=counts.stale, violations=counts.violations, newer=counts.newer
                )
                for name, counts in sorted(self._inspections.items())
                if name in names
            ],
            degradations=[_degradation(one) for one in self._degraded()],
            tasks=len(asyncio.all_tasks()),
            collections=[_collection(self._collections, generation) for generation in range(GENERATIONS)],
            user_events=_events(self._events()),
            sidecar=sidecar_stats.make_message(self._sidecar()),
        )

    async def InspectKey(self, request: pb.InspectKeyRequest, context: Context) -> pb.InspectKeyResponse:
        """Returns what each tier holds of an id."""
        dataset = self._dataset(request.dataset)
        return await held_keys.inspect(dataset, list(self._keys_of(dataset, request.id)), now=self._clock.now())

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.GetPolicyResponse:
        """Returns the policy in effect."""
        return pb.GetPolicyResponse(
            datasets=[policies.make_message(self._policy, name) for name in sorted(self._datasets)],
            status=policies.make_status(self._policy),
        )

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, context: Context) -> pb.UpdatePolicyResponse:
        """Overrides values of the policy file."""
        name = self._dataset(request.policy.dataset, field="policy.dataset").name
        values, resets = policies.values(request), policies.resets(request)
        if not values and not resets:
            raise InvalidRequest({"policy": "no field is set or named by a mask: there is nothing to change"})
        try:
            self._policy.override(name, values, give_back=resets)
        except SettingsError as error:
            raise InvalidRequest({"policy": str(error)}) from None
        return pb.UpdatePolicyResponse(
            policy=policies.make_message(self._policy, name), status=policies.make_status(self._policy)
        )

    async def UpdateLogLevel(self, request: pb.UpdateLogLevelRequest, context: Context) -> pb.UpdateLogLevelResponse:
        """Changes what is logged, for a while."""
        if request.level:
            given = request.duration.ToNanoseconds() / 1e9 if request.HasField("duration") else LOG_LEVEL_FOR
            self._log_level.change(_name_of(request.level), given)
        else:
            self._log_level.reset()
        return pb.UpdateLogLevelResponse(log=sidecar_stats.make_log_status(self._log_level))

    def describe(self, _method: str, request: Message) -> Mapping[str, object]:
        """Returns what the audit log may have of a request: no ids of private datasets, or of datasets that do not exist."""
        match request:
            case pb.InvalidateRequest():
                found: dict[str, object] = {"dataset": request.dataset[:MAX_NAME], "all": request.all, "ids": len(request.ids)}
                if request.ids and request.dataset in self._datasets and request.dataset not in self._private:
                    found["first_ids"] = [id[:MAX_NAME] for id in request.ids[:AUDITED_IDS]]
                return found
            case pb.UpdatePolicyRequest():
                set_to = {
                    field.name: _text(value) for field, value in request.policy.ListFields() if field.name in policies.KEYS
                }
                masks = {"update": list(request.update_mask.paths), "reset": list(request.reset_mask.paths)}
                named = {
                    name: [path[:MAX_NAME] for path in paths[: len(policies.KEYS)]] for name, paths in masks.items() if paths
                }
                return {"dataset": request.policy.dataset[:MAX_NAME], "values": set_to, **named}
            case pb.UpdateLogLevelRequest():
                known = request.level in pb.LogLevel.values()
                found = {"log_level": _name_of(request.level) if known else request.level}
                return found | ({"seconds": _text(request.duration)} if request.HasField("duration") else {})
            case pb.InspectKeyRequest():
                found = {"dataset": request.dataset[:MAX_NAME]}
                if request.dataset in self._datasets and request.dataset not in self._private:
                    found["id"] = request.id[:MAX_NAME]
                return found
            case pb.GetStatsRequest():
                return {"dataset": request.dataset[:MAX_NAME]}
            case _:
                return {}

    def _keys_of(self, dataset: Dataset, id: str) -> Iterable[str]:
        keys_of = self._keys.get(dataset.name)
        return [id] if keys_of is None else keys_of(id)

    def _dataset(self, name: str, *, field: str = "dataset") -> Dataset:
        if name not in self._datasets:
            known = ", ".join(sorted(self._datasets))
            raise InvalidRequest({field: f"there is no dataset {name[:64]!r}; there are: {known}"})
        return self._datasets[name]


def _name_of(level: "pb.LogLevel.ValueType") -> str:
    """Returns the name of a level as the setting `log_level` has it."""
    return pb.LogLevel.Name(level).removeprefix("LOG_LEVEL_").lower()


def _text(value: object) -> object:
    """Returns a policy value as the policy file has it: durations in seconds; what JSON has no number for as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.ToNanoseconds() / 1e9 if isinstance(value, Duration) else value


def _degradation(failing: Failing) -> pb.Degradation:
    return pb.Degradation(
        what=failing.what,
        which=failing.which,
        effect=failing.effect,
        reason=failing.reason,
        since_time=timestamp(datetime_of(failing.since)),
    )


def _collection(collections: Collections, generation: int) -> pb.CollectionStats:
    row = pb.CollectionStats(generation=generation, count=collections.counts[generation])
    row.longest_pause.FromNanoseconds(int(collections.longest[generation] * 1e9))
    return row


def _events(counts: EventCounts) -> pb.UserEventStats:
    row = pb.UserEventStats(
        stored=counts.stored, direct=counts.direct, refused=counts.refused, opted_out=counts.opted_out, backlog=counts.backlog
    )
    if counts.backlog:
        row.backlog_age.FromNanoseconds(int(counts.backlog_age * 1e9))
    return row


def _shadow(dataset: Dataset) -> pb.ShadowStats:
    shadow = dataset.rollout.shadow
    return pb.ShadowStats(
        dataset=dataset.name, compared=shadow.compared, mismatches=shadow.mismatches, left_out=shadow.left_out
    )
