"""Makes L1 smaller while the container is short of memory, before the kernel kills the process, and larger again after that."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cache_sidecar.core import allocator, container_memory, telemetry
from cache_sidecar.core.container_memory import LEAST_L1_BYTES, MIB
from cache_sidecar.tiers.ports import L1

# Seconds between two looks at the container's memory.
EVERY = 1.0
# Shares of the limit that are used: above the first, L1 shrinks until the second would be used; below the third, it grows. What
# clients take beside a full L1 stays below the second (USED_SHARE), so that only what nobody planned for shrinks it.
#
# The bound: what is used may rise by a tenth of the limit or more between two looks. Above the first share, 15 % are left; a
# process that takes them within a second, or keeps the event loop from looking for as long, is killed nevertheless.
SHRINK_ABOVE = 0.85
SHRINK_TO = container_memory.USED_SHARE
GROW_BELOW = 0.75
# L1 grows by this part of its full size at a time, after so many looks without pressure: entries fill what they are given only
# later, and at once it would shrink again.
GROWTH = 4
CALM_LOOKS = 10
# Bytes that are evicted at a time. The native L1 answers no reads meanwhile, the one in Python keeps the event loop busy: 1 ms
# for values of 2 KB, 20 ms for 400,000 of 200 bytes, which are the slowest: all of them take 2 to 4 s.
STEP = MIB


class Share(NamedTuple):
    """The L1 of one dataset."""

    l1: L1
    share: float
    "Of all bytes; those of all datasets add up to 1."
    max_entries: int


class MemoryPressure:
    """Sets the bounds of all L1s of a process."""

    def __init__(self, *, max_bytes: int, follows_limit: bool, give_back: Callable[[], None] = allocator.give_back) -> None:
        """`follows_limit`: whether the full size is what fits the container's limit, which can change, not `max_bytes`."""
        self._shares: dict[str, Share] = {}
        self._full = max_bytes
        self._follows_limit = follows_limit
        self._give_back = give_back
        self._calm = 0
        self.bounds: dict[str, int] = {}
        "The bytes that each dataset may have now."

    def add(self, name: str, share: Share) -> None:
        """Adds the L1 of a dataset, which has its share of the full size."""
        self._shares[name] = share
        self.bounds[name] = _part(self._full, share.share)

    def room(self, name: str) -> tuple[int, int]:
        """Returns the bytes and the entries that a dataset may have now."""
        return self.bounds[name], self._shares[name].max_entries

    async def look(self) -> None:
        """Looks at the container's memory, and resizes. Must not run twice at a time: the bounds would be mixed."""
        memory = container_memory.container_memory()
        if memory is None:
            await self._resize(self._full_bounds(), "the container has no memory limit any more", 0, 0)
            return
        limit, used = memory
        if self._follows_limit and (full := container_memory.l1_bytes(limit)) != self._full:
            await self._follow(full, limit, used)
        if used > SHRINK_ABOVE * limit:
            self._calm = 0
            await self._shrink(int(used - SHRINK_TO * limit), limit, used)
        elif used < GROW_BELOW * limit:
            self._calm += 1
            if self._calm >= CALM_LOOKS:
                self._calm = 0
                await self._grow(limit, used)
        else:
            self._calm = 0

    async def _follow(self, full: int, limit: int, used: int) -> None:
        """The limit of the container was changed while it runs: every bound changes in proportion."""
        ratio, self._full = full / self._full, full
        wanted = {name: min(_part(full, self._shares[name].share), int(bound * ratio)) for name, bound in self.bounds.items()}
        await self._resize(wanted, "the container's memory limit changed", limit, used)

    async def _shrink(self, excess: int, limit: int, used: int) -> None:
        """Takes the excess from what is held, not from the bounds: a bound that is not reached gives nothing back."""
        held = {name: one.l1.stats().bytes for name, one in self._shares.items()}
        kept = max(0.0, 1 - excess / max(1, sum(held.values())))
        wanted = {
            # The bound may be below the least already, if the full size is.
            name: min(self.bounds[name], max(_part(min(LEAST_L1_BYTES, self._full), one.share), int(held[name] * kept)))
            for name, one in self._shares.items()
        }
        await self._resize(wanted, "memory is short", limit, used)

    async def _grow(self, limit: int, used: int) -> None:
        full = self._full_bounds()
        wanted = {name: min(full[name], self.bounds[name] + -(-full[name] // GROWTH)) for name in self._shares}
        await self._resize(wanted, "memory is no longer short", limit, used)

    async def _resize(self, wanted: Mapping[str, int], why: str, limit: int, used: int) -> None:
        if wanted == self.bounds:
            return
        before, held = sum(self.bounds.values()), self._count_bytes()
        for name, bytes in wanted.items():
            one = self._shares[name]
            # A fill between two steps obeys the bound of the last one, so what is held never rises above it again.
            bound = min(self.bounds[name], max(bytes, one.l1.stats().bytes))
            while bound > bytes:
                bound = max(bytes, bound - STEP)
                one.l1.resize(max_bytes=bound, max_entries=one.max_entries)
                self.bounds[name] = bound
                await asyncio.sleep(0)
            one.l1.resize(max_bytes=bytes, max_entries=one.max_entries)
            self.bounds[name] = bytes
        if (freed := held - self._count_bytes()) > 0:
            # In a thread, as it takes a millisecond for every few MiB.
            await asyncio.to_thread(self._give_back)
        after = sum(wanted.values())
        log = telemetry.log.warning if after < before else telemetry.log.info
        log(
            "memory for cached entries changed",
            because=why,
            l1_bytes=after,
            l1_bytes_before=before,
            freed=max(0, freed),
            memory_used=used,
            memory_limit=limit,
        )

    def _full_bounds(self) -> dict[str, int]:
        return {name: _part(self._full, one.share) for name, one in self._shares.items()}

    def _count_bytes(self) -> int:
        return sum(one.l1.stats().bytes for one in self._shares.values())


def _part(bytes: int, share: float) -> int:
    return max(1, int(bytes * share))
