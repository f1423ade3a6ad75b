"""The memory of the container, and how much of it cached entries get."""

from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
# The process takes at most this share of its memory limit, whatever clients do: for itself, for what clients may take with
# requests that do not end and replies that they do not read, and for cached entries. Entries are counted with their overhead,
# but fragmentation is not, so L1 gets only a part of the rest.
USED_SHARE = 0.8
PROCESS_BYTES = 96 * MIB
CLIENT_BYTES = 184 * MIB
L1_SHARE = 0.75
LEAST_L1_BYTES = 8 * MIB
# Of a process without a limit.
UNLIMITED_L1_BYTES = 160 * MIB

# A container's memory in cgroup v2, and v1: the files with its limit, its use and its statistics, and the statistic with
# the cached files that the kernel drops first, which the kubelet does not count either.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file "),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file ",
    ),
)
# cgroup v1 has such a limit if there is none.
_NO_LIMIT = 1 << 60


class L1Default(NamedTuple):
    """The default of the setting l1_max_bytes."""

    bytes: int
    reason: str
    "Where it comes from, for people."


def container_memory() -> tuple[int, int] | None:
    """Returns the limit of the container's memory and what is used of it, in bytes; None without a limit."""
    for limit_file, usage_file, statistics_file, reclaimable in CGROUPS:
        try:
            text = Path(limit_file).read_text().strip()
            if not text.isdecimal() or int(text) >= _NO_LIMIT:
                continue
            used = int(Path(usage_file).read_text())
            statistics = Path(statistics_file).read_text().splitlines()
        except OSError:
            continue
        dropped = sum(int(line.removeprefix(reclaimable)) for line in statistics if line.startswith(reclaimable))
        return int(text), max(0, used - dropped)
    return None


def l1_bytes(limit: int) -> int:
    """Returns the bytes for cached entries in a container with a memory limit, in bytes."""
    room = USED_SHARE * limit - PROCESS_BYTES - CLIENT_BYTES
    return max(LEAST_L1_BYTES, int(room * L1_SHARE) // MIB * MIB)


def l1_default() -> L1Default:
    """Returns the bytes for cached entries in this container."""
    if memory := container_memory():
        limit, _ = memory
        return L1Default(l1_bytes(limit), f"default for the container's memory limit of {limit // MIB} MiB")
    return L1Default(UNLIMITED_L1_BYTES, "default without a memory limit")
