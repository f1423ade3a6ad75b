"""The sidecar under attack, and measurements of an attack."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract.hostile.others import Others
from tests.contract.hostile.report import Report
from tests.support.shop import Shop

REPORT = pytest.StashKey[Report]()
PRODUCT = "wanted"
CALLS = 50
EVERY = 0.01
CANCELLED = "CANCELLED: CANCELLED"
"""What C-core says of a call for which it has no room, and the only word it has for that. How many calls wait to be taken by
Python depends on the speed of the machine."""


class Victim:
    """A sidecar in a process of its own."""

    def __init__(
        self, shop: Shop, address: str, engine: str, process_: psutil.Process, others: Others, config: pytest.Config
    ) -> None:
        self.shop = shop
        self.engine = engine
        self.address = address
        "The address under attack."
        self.scale: int = config.getoption("--attacks", 1)
        self._process = process_
        self._others = others
        self._report = config.stash.setdefault(REPORT, Report())

    def forget_peak(self) -> None:
        """Has the kernel record the peak of memory anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Returns the most memory that was resident since, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(kilobytes)

    def excuses(self, errors: Iterable[str]) -> bool:
        """Whether honest callers may see these errors during an attack, and retry."""
        return set(errors) <= ({CANCELLED} if self.engine == "aio" else set())

    async def settle(self) -> None:
        """Waits until memory has not grown for a moment: what was sent has been taken, or refused."""
        most, quiet = 0, 0
        while quiet < 15:
            await asyncio.sleep(EVERY)
            rss = self._process.memory_info().rss
            quiet = quiet + 1 if rss <= most else 0
            most = max(most, rss)

    async def during(self, name: str, attack: Callable[["Victim"], Awaitable[Any]]) -> dict[str, Any]:
        """Returns the memory, and what honest callers saw, before and during an attack."""
        await self._others.take(at_least=0)
        before = await self._others.take(at_least=CALLS)
        rss = most = self._process.memory_info().rss
        attacking = asyncio.ensure_future(attack(self))
        while not attacking.done():
            most = max(most, self._process.memory_info().rss)
            await asyncio.wait([attacking], timeout=EVERY)
        await attacking
        seen = await self._others.take(at_least=CALLS)
        row = {"attack": name, "engine": self.engine, "rss_before": rss, "rss_growth": most - rss}
        self._report.rows.append(row | {"before": before, "during": seen})
        return self._report.rows[-1]


Attacked = Callable[..., AbstractAsyncContextManager[Victim]]
