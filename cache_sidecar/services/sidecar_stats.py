"""What AdminService.GetStats says about the sidecar itself."""

from collections.abc import Mapping
from typing import NamedTuple

from cache_sidecar.core.log_level import LogLevel
from cache_sidecar.services.shared.timestamps import datetime_of, timestamp
from cache_sidecar.v1 import admin_service_pb2 as pb


class SidecarFacts(NamedTuple):
    """A sidecar, and how it keeps up with changes; times in seconds."""

    version: str
    engine: str
    "`native` or `aio`."
    uptime: float
    l1_max_bytes: int
    partitions_fresh: int
    "Partitions, of 256, whose invalidations are known to be received."
    invalidation_delay: float | None
    "As measured in the last minute; None if it was not."
    relay_lags: Mapping[str, float]
    "By role of a database."
    log_level: LogLevel


def make_message(facts: SidecarFacts) -> pb.SidecarStats:
    """Returns the facts as a message."""
    made = pb.SidecarStats(
        version=facts.version,
        engine=facts.engine,
        l1_max_bytes=facts.l1_max_bytes,
        partitions_fresh=facts.partitions_fresh,
        log=make_log_status(facts.log_level),
    )
    made.uptime.FromNanoseconds(_nanoseconds(facts.uptime))
    if facts.invalidation_delay is not None:
        made.invalidation_delay.FromNanoseconds(_nanoseconds(facts.invalidation_delay))
    for role, lag in facts.relay_lags.items():
        made.relay_lags[role].FromNanoseconds(_nanoseconds(lag))
    return made


def make_log_status(level: LogLevel) -> pb.LogStatus:
    """Returns the level of the log as a message."""
    made = pb.LogStatus(level=_number(level.current), configured_level=_number(level.configured))
    if level.reset_at is not None:
        made.reset_time.CopyFrom(timestamp(datetime_of(level.reset_at)))
    return made


def _number(level: str) -> "pb.LogLevel.ValueType":
    return pb.LogLevel.Value(f"LOG_LEVEL_{level.upper()}")


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9))
