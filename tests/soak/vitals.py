"""What a sidecar takes of its machine."""

from typing import NamedTuple

import psutil

from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.sidecars import Sidecar

# What may be more at the end than after the first minute: a share, and what is noise in small numbers.
ALLOWED = 0.05
NOISE = {"rss": 2 * 1024 * 1024, "fds": 2, "tasks": 2}


class Vitals(NamedTuple):
    """At one moment."""

    rss: int
    "Bytes of memory."
    fds: int
    "Open file descriptors."
    tasks: int
    "Tasks of its event loop."

    def grown(self, before: "Vitals") -> list[str]:
        """Returns a line for each that has grown by more than is allowed."""
        return [
            f"{name}: {old:,} after the first minute, {new:,} at the end"
            for name, old, new in zip(self._fields, before, self, strict=True)
            if new > old + max(ALLOWED * old, NOISE[name])
        ]


async def vitals(sidecar: Sidecar, pid: int) -> Vitals:
    """Looks."""
    process = psutil.Process(pid)
    stats = await AdminServiceStub(sidecar.channel).GetStats(GetStatsRequest())  # type: ignore[no-untyped-call]
    return Vitals(process.memory_info().rss, process.num_fds(), stats.tasks)
