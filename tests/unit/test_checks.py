"""Checks run behind the start, again while something fails, and not while all is well."""

import asyncio

import pytest

from cache_sidecar.core import dependency_checks as module
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.dependency_checks import Checks
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from tests.support.until import until


async def test_it_checks_as_long_as_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", 0.01)
    dependencies = Dependencies(is_logged=False)
    node, began = dependencies.of("redis", "a:1"), []
    errors: list[Exception] = []

    async def check(moment: float) -> None:
        began.append(moment)
        if errors:
            node.report_failure("refused", effect="")
            raise errors[0]
        node.report_success(before=moment)

    running = asyncio.create_task(Checks(dependencies, [check]).run())
    await until(lambda: len(began) == 1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(began) == 1, "all is well"
    errors.append(TierFailed(Tier.L2, Failure.REFUSED))
    node.report_failure("refused", effect="")
    await until(lambda: len(began) > 3)
    errors.clear()
    await until(lambda: not node.is_failing)
    count = len(began)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(began) <= count + 1
    await cancel_and_wait(running)
