"""The resources that a sidecar uses."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Self

import psutil

from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.support.launch import Sidecar

# Allowed growth since the first minute: a share, and an absolute number that is noise.
ALLOWED = 0.05
NOISE = {"rss": 2 * 1024 * 1024, "fds": 2, "tasks": 2}
# Samples of what varies with each call, and seconds between them.
LOOKS, LOOK_EVERY = 40, 0.05


class Vitals(NamedTuple):
    """At one moment."""

    rss: int
    "Bytes of memory."
    fds: int
    "Open file descriptors."
    tasks: int
    "Tasks of its event loop."

    @classmethod
    def of(cls, pid: int, *, tasks: int) -> Self:
        """Returns those of a process; the number of its tasks is given."""
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), tasks)

    @classmethod
    def least(cls, looks: Sequence[Self]) -> Self:
        """Returns the minimum of several samples: resources of calls in progress vary, a leak stays."""
        return cls(*map(min, zip(*looks, strict=True)))

    def grown(self, before: "Vitals") -> list[str]:
        """Returns a line for each that has grown by more than allowed."""
        return [
            f"{name}: {old:,} after the first minute, {new:,} at the end"
            for name, old, new in zip(self._fields, before, self, strict=True)
            if new > old + max(ALLOWED * old, NOISE[name])
        ]


async def vitals(sidecar: Sidecar, pid: int) -> Vitals:
    """Takes samples for two seconds."""
    looks = []
    for _ in range(LOOKS):
        stats = await AdminServiceStub(sidecar.channel).GetStats(GetStatsRequest())  # type: ignore[no-untyped-call]
        looks.append(Vitals.of(pid, tasks=stats.tasks))
        await asyncio.sleep(LOOK_EVERY)
    return Vitals.least(looks)
