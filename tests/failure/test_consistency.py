"""No reply is older than it may be while things break: the short form of `make consistency`. And a planted error is found."""

import asyncio
import math
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.coherence import Feed
from tests.consistency.checker import Checker
from tests.consistency.load import Load, make_products
from tests.consistency.run import bounds, run
from tests.consistency.stack import running
from tests.sidecars import in_process, settings_for, until

# What says most in the shortest time.
FAULTS = ("primary killed", "primary failed over", "sidecar cut off", "sidecar killed", "sidecar stopped")
CLIENTS, READS = 16, 20_000


@pytest.mark.timeout(180)
async def test_no_reply_is_older_than_it_may_be(
    processes: Processes, valkey_cluster: ValkeyCluster, postgres: Postgres, database: str, namespace: str
) -> None:
    async with running(processes, valkey_cluster, postgres, dsn=database, namespace=namespace, sidecars=2, relays=1) as stack:
        outcome = await run(stack, seconds=0, faults=FAULTS, clients=CLIENTS)
    assert not outcome.checker.violations
    # It says something only if much was read, and written, during each of them.
    assert outcome.checker.reads >= READS
    assert all(tally.reads and tally.writes for tally in outcome.tallies.values())


async def test_a_sidecar_that_does_not_hear_is_found(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear_nothing(*_: Any) -> None:
        pass

    async def notice_nothing(*_: Any) -> None:
        await asyncio.Event().wait()

    def trust_forever(feed: Feed, _began: float) -> None:
        feed._trust.extend(feed, math.inf)

    monkeypatch.setattr(Feed, "_take", hear_nothing)
    monkeypatch.setattr(Feed, "_beat", notice_nothing)
    monkeypatch.setattr(Feed, "_confirm", trust_forever)
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace)
    async with AsyncExitStack() as opened:
        sidecars = [await opened.enter_async_context(in_process(settings)) for _ in range(2)]
        ids = await make_products(database, 100)
        checker = Checker(len(ids), bounds())
        addresses = [sidecar.address for sidecar in sidecars]
        load = Load(checker, ids=ids, dsn=database, sidecars=addresses, incarnations=range(2))
        async with load.running(clients=8, seed=1):
            await until(lambda: checker.violations)
    assert {violation.rule for violation in checker.violations} == {"told"}
