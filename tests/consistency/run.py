"""A consistency run: clients that call, a nemesis that breaks, and what came of it."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cache_sidecar import policy
from cache_sidecar.settings import Settings
from cache_sidecar.tiers import coherence
from tests.consistency.checker import Bounds, Checker
from tests.consistency.load import CALM, Load, Tally, make_products
from tests.consistency.nemesis import FAULTS
from tests.consistency.stack import Stack

PRODUCTS = 1000
# Seconds of calm before a fault, and those after it that are still counted as the fault's.
CALM_SECONDS, SETTLE_SECONDS = 2.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run showed."""

    checker: Checker
    tallies: dict[str, Tally]
    "By fault, CALM first."
    seconds: float
    clients: int
    seed: int


def bounds() -> Bounds:
    """Returns the bounds of products with the settings of a default sidecar."""
    product = policy.default()["product"]
    told = coherence.staleness_bound(Settings.model_fields["redis_timeout"].default)
    return Bounds(told=told, seen=product.staleness_bound, stale=product.stale_limit)


async def run(
    stack: Stack,
    *,
    seconds: float,
    faults: Sequence[str] = tuple(FAULTS),
    clients: int = 64,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Breaks one thing after the other, each at least once, as long as there is time."""
    checker = Checker(PRODUCTS, bounds())
    load = Load(
        checker,
        ids=await make_products(stack.dsn, PRODUCTS),
        dsn=stack.dsn,
        sidecars=[sidecar.grpc for sidecar in stack.sidecars],
        incarnations=stack.incarnations,
    )
    start = time.monotonic()
    async with load.running(clients=clients, seed=seed):
        with load.during(CALM):
            await asyncio.sleep(CALM_SECONDS)
        for fault in _in_turn(faults, random.Random(seed)):
            tell(f"{fault}; {checker.reads:,} reads, {checker.broken} violations")
            with load.during(fault):
                await FAULTS[fault](stack)
                await asyncio.sleep(SETTLE_SECONDS)
            with load.during(CALM):
                await asyncio.sleep(CALM_SECONDS)
            if time.monotonic() - start >= seconds and set(faults) <= set(load.tallies):
                break
    elapsed = time.monotonic() - start
    return Outcome(checker=checker, tallies=load.tallies, seconds=elapsed, clients=clients, seed=seed)


def _in_turn(faults: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Gives all of them in an order that is chosen anew each time round, for ever."""
    while True:
        yield from chance.sample(faults, len(faults))
