"""A consistency run: clients that call, a nemesis that breaks, and what came of it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc

from tests.consistency.clients.carts import CartClient
from tests.consistency.clients.counters import Looker
from tests.consistency.clients.end import PATIENCE, AtRest
from tests.consistency.clients.idle import Visitor
from tests.consistency.clients.products import AnotherProgram, ProductClient, make_products
from tests.consistency.clients.sessions import SessionClient
from tests.consistency.clients.stock import Auditor, StockClient, make_stock
from tests.consistency.clients.watches import watchers
from tests.consistency.load import CALM, Load, Tally
from tests.consistency.nemesis import FAULTS, Nemesis
from tests.consistency.rulebook import CONTENDED, OWNED, Rulebook
from tests.consistency.stack import Stack

# Seconds of calm before a fault, and those after it that are still counted as the fault's.
CALM_SECONDS, SETTLE_SECONDS = 1.5, 2.0
# Clients of each kind, for so many clients in all.
SHARES = {"products": 0.3, "sessions": 0.25, "seldom": 0.1, "carts": 0.2, "stock": 0.15}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run showed."""

    rules: Rulebook
    tallies: Mapping[str, Mapping[str, Tally]]
    "By fault, CALM first, and dataset."
    during: Counter[str]
    "Seconds that each fault lasted."
    seconds: float
    clients: int
    seed: int
    errors: Counter[str]
    "What sidecars and relays logged as errors."


async def run(
    stack: Stack,
    *,
    seconds: float,
    faults: Sequence[str] = tuple(FAULTS),
    clients: int = 80,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Breaks one thing after the other, each at least once, as long as there is time."""
    rules = Rulebook()
    load = Load(
        rules,
        dsn=stack.dsn,
        sidecars=[sidecar.grpc for sidecar in stack.sidecars],
        incarnations=stack.incarnations,
        idle=stack.idle,
    )
    nemesis = Nemesis(stack, rules, random.Random(seed), load.visits)
    start = time.monotonic()

    async def broken() -> None:
        with load.during(CALM):
            await asyncio.sleep(CALM_SECONDS)
        for fault in _in_turn(faults, nemesis.chance):
            tell(f"{fault}; {rules.reads:,} reads, {rules.log.broken} violations")
            with load.during(fault):
                await FAULTS[fault](nemesis)
                await asyncio.sleep(SETTLE_SECONDS)
            with load.during(CALM):
                await asyncio.sleep(CALM_SECONDS)
            if time.monotonic() - start >= seconds and set(faults) <= set(load.tallies):
                break

    await call(load, broken(), clients=clients, seed=seed, tell=tell)
    return Outcome(
        rules=rules,
        tallies=load.tallies,
        during=load.seconds,
        seconds=time.monotonic() - start,
        clients=clients,
        seed=seed,
        errors=stack.errors(),
    )


async def call(
    load: Load,
    body: Awaitable[None],
    *,
    clients: int,
    seed: int,
    patience: float = PATIENCE,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Has clients of every kind call while the body runs, then has everything that came of it compared.

    `patience` is how many seconds it gets to come to rest.
    """
    chances = (random.Random(f"{seed} {number}") for number in range(10**6))
    ids = await make_products(load.dsn, load.rules.number_of_products)
    await make_stock(load.dsn)
    async with AsyncExitStack() as opened:
        all_of_them = [*load.busy, *load.idle]

        async def channels() -> dict[int, grpc.aio.Channel]:
            return {sidecar: await opened.enter_async_context(load.channel(sidecar)) for sidecar in all_of_them}

        count = {kind: max(2, round(clients * share)) for kind, share in SHARES.items()}
        products = [
            ProductClient(load, ids, sidecar, await opened.enter_async_context(load.channel(sidecar)), next(chances))
            for sidecar in (load.busy[number % len(load.busy)] for number in range(count["products"]))
        ]
        of_sessions, of_carts, of_stock = await channels(), await channels(), await channels()
        sessions = [
            SessionClient(load, of_sessions, next(chances), seldom=number >= count["sessions"])
            for number in range(count["sessions"] + count["seldom"])
        ]
        carts = [CartClient(load, of_carts, next(chances)) for _ in range(count["carts"])]
        owners = range(len(CONTENDED), len(CONTENDED) + len(OWNED))
        stock = [
            StockClient(
                load, of_stock, next(chances), owns=owners[number // 2] if number % 2 and number // 2 < len(owners) else None
            )
            for number in range(count["stock"])
        ]
        visitors = [
            Visitor(
                load,
                sidecar,
                next(chances),
                products=ProductClient(load, ids, sidecar, of_carts[sidecar], next(chances)),
                sessions=sessions[0],
                carts=carts[0],
                stock=stock[0],
            )
            for sidecar in load.idle
        ]
        auditor, another = Auditor(load), AnotherProgram(load, ids, next(chances))
        async with asyncio.TaskGroup() as watching:
            watches = [watching.create_task(one.run()) for one in watchers(load, await channels(), ids, next(chances))]
            lookers = [Looker(load, sidecar, of_carts) for sidecar in all_of_them]
            callers = [*products, *sessions, *carts, *stock, *visitors, *lookers, auditor, another]
            await load.run([caller.run for caller in callers], body)
            tell(f"at rest; {load.rules.reads:,} reads, {load.rules.log.broken} violations")
            of_each = {sidecar: ProductClient(load, ids, sidecar, of_carts[sidecar], next(chances)) for sidecar in all_of_them}
            await AtRest(load, products=of_each, carts=carts[0], stock=stock[0], auditor=auditor, patience=patience).compare(
                ids
            )
            for watch in watches:
                watch.cancel()


def _in_turn(faults: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Gives all of them in an order that is chosen anew each time round, for ever."""
    while True:
        yield from chance.sample(faults, len(faults))
