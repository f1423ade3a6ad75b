"""One outage after the other, and a table of what callers saw."""

import pytest

from tests.failure.outages.ground import Ground, Outage
from tests.failure.outages.load import Load
from tests.failure.outages.report import Report

SECONDS = 0.7
REPORT = pytest.StashKey[Report]()


class Trial:
    """Runs outages and keeps the results."""

    def __init__(self, running: Ground, config: pytest.Config) -> None:
        self.ground = running
        self._config = config

    async def of(self, outage: Outage) -> Load:
        """Returns the results of an outage."""
        load = await self.ground.during(outage, seconds=self._config.getoption("--phase", SECONDS))
        self._config.stash.setdefault(REPORT, Report()).add(outage.name, load)
        return load
