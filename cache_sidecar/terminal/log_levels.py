"""`cache-sidecar log-level`: what a sidecar logs."""

from typing import Any

from cache_sidecar.terminal.access import TIMEOUT, Access
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub


async def read(access: Access) -> pb.LogStatus:
    """Returns the level in effect. Raises ServerUnreachable and SidecarError."""
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        reply: pb.GetStatsResponse = await access.ask(
            admin.GetStats(pb.GetStatsRequest(), timeout=TIMEOUT, metadata=access.metadata)
        )
        return reply.sidecar.log


async def update(access: Access, level: str, seconds: float) -> pb.LogStatus:
    """Changes the level for so many seconds; `reset` resets it. Raises ServerUnreachable and SidecarError."""
    request = pb.UpdateLogLevelRequest()
    if level != "reset":
        request.level = pb.LogLevel.Value(f"LOG_LEVEL_{level.upper()}")
        request.duration.FromNanoseconds(round(seconds * 1e9))
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        call = admin.UpdateLogLevel(request, timeout=TIMEOUT, metadata=access.metadata)
        reply: pb.UpdateLogLevelResponse = await access.ask(call)
        return reply.log


def line(status: pb.LogStatus) -> str:
    """Returns the line to print."""
    if not status.HasField("reset_time"):
        return f"{_name(status.level)}, by the setting log_level"
    return f"{_name(status.level)} until {status.reset_time.ToJsonString()}, then {_name(status.configured_level)} again"


def _name(level: "pb.LogLevel.ValueType") -> str:
    return pb.LogLevel.Name(level).removeprefix("LOG_LEVEL_").lower()
