"""What a sidecar takes of its machine."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Self

import psutil

from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from tests.sidecars import Sidecar

# What may be more at the end than after the first minute: a share, and what is noise in small numbers.
ALLOWED = 0.05
NOISE = {"rss": 2 * 1024 * 1024, "fds": 2, "tasks": 2}
# Looks at what comes and goes with each call, and seconds between them.
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
        """Returns those of a process, whose tasks it told."""
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), tasks)

    @classmethod
    def least(cls, looks: Sequence[Self]) -> Self:
        """Returns what was there at each of several looks: what calls in progress take comes and goes, and a leak stays."""
        return cls(*map(min, zip(*looks, strict=True)))

    def grown(self, before: "Vitals") -> list[str]:
        """Returns a line for each that has grown by more than is allowed."""
        return [
            f"{name}: {old:,} after the first minute, {new:,} at the end"
            for name, old, new in zip(self._fields, before, self, strict=True)
            if new > old + max(ALLOWED * old, NOISE[name])
        ]


async def vitals(sidecar: Sidecar, pid: int) -> Vitals:
    """Looks, for two seconds."""
    looks = []
    for _ in range(LOOKS):
        stats = await AdminServiceStub(sidecar.channel).GetStats(GetStatsRequest())  # type: ignore[no-untyped-call]
        looks.append(Vitals.of(pid, tasks=stats.tasks))
        await asyncio.sleep(LOOK_EVERY)
    return Vitals.least(looks)
