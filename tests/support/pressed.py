"""A process with a full L1 whose other memory rises until L1 has to go: `python -m tests.support.pressed native|clock FOLDER`.

The kernel's figure of its resident memory is written into files like a container's before each look. Prints the bytes in L1 at
first and at last, the most resident memory after a look, and the limit.
"""

import asyncio
import os
import sys
from pathlib import Path

from cache_sidecar.core import container_memory, telemetry
from cache_sidecar.core.container_memory import MIB
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.memory.pressure import MemoryPressure, Share
from cache_sidecar.tiers.ports import L1, PARTITIONS, Record
from tests.support.cgroup import Cgroup

FULL = 120 * MIB
# What the rest of the process takes more of between two looks, and in all.
RISE, RISES = 4 * MIB, 25


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def main(kind: str, folder: Path) -> None:
    l1: L1 = ClockL1(max_bytes=FULL, max_entries=1_000_000)
    if kind == "native":
        from cache_sidecar.tiers.memory.native import NativeL1  # noqa: PLC0415  # where it is installed

        l1 = NativeL1(max_bytes=FULL, max_entries=1_000_000)
    for partition in range(PARTITIONS):
        l1.set_trusted(partition, True, now=0.0)
    number = 0
    while l1.stats().evictions == 0:
        id = f"id-{number}"
        l1.put(id, Record(1, 0.0, os.urandom(1000)), generation=l1.generation(id), expires_from=0.0)
        number += 1
    start = l1.stats().bytes
    # Just below the share at which it shrinks. Without shrinking, the rise would end above the limit.
    limit = int(resident() / 0.84)
    assert limit < resident() + RISE * RISES
    cgroup = Cgroup(folder)
    cgroup.write(limit=limit, used=resident())
    container_memory.CGROUPS = (cgroup.files,)
    watched = MemoryPressure(max_bytes=FULL, follows_limit=False)
    watched.add("product", Share(l1, 1.0, 1_000_000))
    risen, most = [], 0
    for _ in range(RISES):
        risen.append(os.urandom(RISE))
        cgroup.write(used=resident())
        await watched.look()
        most = max(most, resident())
    sys.stdout.write(f"{start} {l1.stats().bytes} {most} {limit}\n")


if __name__ == "__main__":
    telemetry.configure(level="error", format="json")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
