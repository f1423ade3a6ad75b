"""No reply is older than it may be and nothing is lost while things break: the short form of `make consistency`. And a planted
error of each rule is found."""

import asyncio
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.coherence.subscriber import Feed
from tests.consistency import liar
from tests.consistency.load import Load
from tests.consistency.rulebook import Rulebook
from tests.consistency.run import call, run
from tests.consistency.stack import ENGINES, running
from tests.support import inside
from tests.support.launch import in_process, settings_for
from tests.support.until import until

# What says most in the shortest time.
FAULTS = (
    "primary killed",
    "primary failed over",
    "old primary wakes",
    "failover loses the tail",
    "sidecar cut off",
    "sidecar killed",
    "sidecar paused",
)
CLIENTS, READS = 32, 10_000
# Of what was planted: how many products are enough, and seconds that it gets to be found, and to come to rest.
PRODUCTS, FOUND, PATIENCE = 50, 240.0, 3.0


@pytest.mark.timeout(400)
async def test_no_reply_is_older_than_it_may_be_and_nothing_is_lost(
    processes: Processes, valkey_cluster: ValkeyCluster, postgres: Postgres, database: str, namespace: str
) -> None:
    async with running(
        processes,
        valkey_cluster,
        postgres,
        dsn=database,
        namespace=namespace,
        sidecars=3,
        relays=1,
        engines=ENGINES,
        idle=1,
    ) as stack:
        outcome = await run(stack, seconds=0, faults=FAULTS, clients=CLIENTS)
    assert not outcome.rules.log.counts, "\n".join(map(str, outcome.rules.log.kept))
    # It says something only if much was read, and written, during each of them.
    assert outcome.rules.reads >= READS
    assert all(outcome.tallies[fault][dataset].reads for fault in FAULTS for dataset in ("product", "cart", "session"))
    assert all(outcome.tallies[fault]["product"].writes for fault in FAULTS)
    assert outcome.rules.changes.checked
    assert outcome.rules.pieces.grants
    assert all(stream.delivered for stream in outcome.rules.streams)


async def planted(
    cluster: ValkeyCluster,
    database: str,
    namespace: str,
    expected: set[tuple[str, str]],
    lies: Mapping[str, liar.Lie],
    streams: Mapping[str, liar.StreamLie],
    *,
    at_rest: set[tuple[str, str]] = frozenset(),  # type: ignore[assignment]
) -> None:
    """Calls two sidecars through liars until what was planted is found, by dataset and rule; or is at the end."""
    settings = settings_for(",".join(cluster.addresses), database, namespace)
    rules = Rulebook(products=PRODUCTS)
    async with AsyncExitStack() as opened:
        sidecars = [await opened.enter_async_context(in_process(settings)) for _ in range(2)]
        addresses = [await opened.enter_async_context(liar.liar(one.address, lies, streams)) for one in sidecars]
        load = Load(rules, dsn=database, sidecars=addresses, incarnations=range(2))

        async def found() -> None:
            with suppress(AssertionError):
                await until(lambda: expected <= rules.log.counts.keys(), seconds=FOUND)

        await call(load, found(), clients=CLIENTS, seed=1, patience=PATIENCE)
    assert expected | at_rest <= rules.log.counts.keys(), f"not found: {(expected | at_rest) - rules.log.counts.keys()}"


@pytest.mark.timeout(400)
async def test_what_is_old_lost_or_made_twice_is_found(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> None:
    await planted(
        valkey_cluster,
        database,
        namespace,
        {("session", "ended"), ("session", "own"), ("session", "told"), ("cart", "own"), ("cart", "told"), ("cart", "lost")}
        | {("inventory", "state"), ("inventory", "repeat"), ("inventory", "back"), ("product", "own"), ("product", "told")}
        | {("product", "seen")},
        {
            "GetSession": liar.remembers(),
            "GetCart": liar.remembers(),
            "AddCartItem": liar.adds_twice(),
            "BatchGetInventory": liar.counts_wrong(),
            "ReserveInventory": liar.forgets_requests(),
            "GetProduct": liar.remembers(),
        },
        {"WatchInventory": liar.repeats_itself(), "WatchProducts": liar.leaves_out(5), "WatchCart": liar.falls_silent(1)},
        at_rest={("product", "gap"), ("cart", "last"), ("inventory", "lost")},
    )


@pytest.mark.timeout(400)
async def test_what_is_refused_oversold_or_younger_than_it_says_is_found(
    valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    await planted(
        valkey_cluster,
        database,
        namespace,
        {("session", "lost"), ("cart", "age"), ("inventory", "oversold"), ("inventory", "expired")},
        {
            "GetSession": liar.refuses(grpc.StatusCode.NOT_FOUND, every=20),
            "GetCart": liar.is_late(0.4),
            "ReserveInventory": liar.grants_everything(),
            "CommitReservation": liar.refuses(grpc.StatusCode.FAILED_PRECONDITION, every=4),
            "AdjustInventory": liar.does_nothing(liar.NOTHING_ADJUSTED),
        },
        {},
        at_rest={("inventory", "lost")},
    )


async def test_a_sidecar_that_does_not_hear_is_found(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear_nothing(*_: Any) -> None:
        pass

    async def notice_nothing(*_: Any) -> None:
        await asyncio.Event().wait()

    def trust_forever(feed: Feed, _began: float) -> None:
        inside.freshness_lease_of(feed).extend(feed, math.inf)

    monkeypatch.setattr(Feed, inside.HANDLE, hear_nothing)
    monkeypatch.setattr(Feed, inside.BEAT, notice_nothing)
    monkeypatch.setattr(Feed, inside.RENEW_LEASE, trust_forever)
    await planted(valkey_cluster, database, namespace, {("product", "told")}, {}, {}, at_rest={("product", "last")})
