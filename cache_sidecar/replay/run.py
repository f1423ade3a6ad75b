"""Runs a replay: arms in turn, round by round, each with the same visits, and then what has to be true."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from cache_sidecar.replay.arm import Arm, EndState
from cache_sidecar.replay.faults import FAULTS
from cache_sidecar.replay.order_file import Shop, Visit
from cache_sidecar.replay.servers import Plan, Servers, Statements, cpu_seconds, memory_bytes, open_arm
from cache_sidecar.replay.shopper import Habits, Outcome, Record, Shoppers

# Seconds between two samples of what the tiers answer.
_SAMPLE_EVERY = 2.0
# The process that this runs in: shoppers, and the clients of the arms, as a shop's own program has them.
SHOP = "shop"


class Options(NamedTuple):
    """What is replayed, and how."""

    arms: Sequence[str]
    plan: Plan
    habits: Habits
    rounds: int = 1
    fault: str = ""
    fault_seconds: float = 30.0


class Usage(NamedTuple):
    """What has been used so far."""

    cpu: dict[str, float]
    "Seconds by process."
    statements: Statements
    tiers: Counter[tuple[str, str]]


class Sample(NamedTuple):
    """Hits in the tiers, some time after the begin of a round."""

    seconds: float
    pages: int
    tiers: Counter[tuple[str, str]]


class Round(NamedTuple):
    """What was measured of an arm while some visits were made."""

    record: Record
    seconds: float
    cpu: dict[str, float]
    "Seconds by process."
    statements: Statements
    tiers: Counter[tuple[str, str]]
    samples: list[Sample]
    fault: tuple[float, float] | None
    "When it began and ended, in seconds since the begin."


class ArmResult(NamedTuple):
    """What was measured of an arm."""

    name: str
    bound: float
    rounds: list[Round]
    memory: dict[str, int]
    "Bytes by process, at the end."
    invariants: dict[str, str]
    "By name: empty if it holds, else what does not."


async def replay(
    shop: Shop, visits: Sequence[Visit], options: Options, *, tell: Callable[[str, int, int], None]
) -> list[ArmResult]:
    """Replays visits in each arm. `tell` receives a line, and how many visits of how many are done.

    Raises InputError, and SidecarError when a server does not start.
    """
    total = len(visits) * len(options.arms)
    done = 0
    async with AsyncExitStack() as stack:
        running: list[_Running] = []
        for name in options.arms:
            tell(f"starting the servers of {name}", done, total)
            arm, servers = await stack.enter_async_context(open_arm(name, shop, options.plan))
            running.append(_Running(arm, servers, Shoppers(arm, shop, options.habits)))
        for number in range(options.rounds):
            part = visits[number * len(visits) // options.rounds : (number + 1) * len(visits) // options.rounds]
            # Nobody is always the first: a machine may get slower, or warmer.
            turn = number % len(running)
            for one in running[turn:] + running[:turn]:
                before = done - one.shoppers.done

                def progress(shoppers: Shoppers, before: int = before) -> None:
                    tell(shoppers.arm.name, before + shoppers.done, total)

                one.rounds.append(await _round(one, part, options, progress))
                done = before + one.shoppers.done
        tell("checking", done, total)
        return [await _result(one, shop) for one in running]


class _Running:
    """An arm that runs."""

    def __init__(self, arm: Arm, servers: Servers, shoppers: Shoppers) -> None:
        self.arm = arm
        self.servers = servers
        self.shoppers = shoppers
        self.rounds: list[Round] = []


async def _round(one: _Running, visits: Sequence[Visit], options: Options, progress: Callable[[Shoppers], None]) -> Round:
    before = await _usage(one)
    begin = time.perf_counter()
    first = one.shoppers.done
    samples: list[Sample] = [Sample(0.0, 0, before.tiers)]
    sampling = asyncio.create_task(_sample(one, begin, samples))
    breaking = asyncio.create_task(_break(one, first + len(visits) // 3, begin, options)) if options.fault else None
    spent = time.process_time()
    try:
        record = await one.shoppers.run(visits, progress=progress)
        seconds, spent = time.perf_counter() - begin, time.process_time() - spent
        window = None if breaking is None else await breaking
    finally:
        for task in (sampling, breaking):
            if task is not None:
                task.cancel()
        await asyncio.gather(sampling, *([breaking] if breaking else []), return_exceptions=True)
    after = await _usage(one)
    samples.append(Sample(seconds, record.pages, after.tiers))
    cpu = {name: max(0.0, after.cpu[name] - before.cpu[name]) for name in after.cpu} | {SHOP: spent}
    statements = Statements(*(late - early for late, early in zip(after.statements, before.statements, strict=True)))
    return Round(record, seconds, cpu, statements, after.tiers - before.tiers, samples, window)


async def _usage(one: _Running) -> Usage:
    cpu = {name: cpu_seconds(pids) for name, pids in one.servers.pids().items()}
    return Usage(cpu, await one.servers.network.statements(), await one.arm.tiers())


async def _sample(one: _Running, begin: float, samples: list[Sample]) -> None:
    while True:
        await asyncio.sleep(_SAMPLE_EVERY)
        tiers = await one.arm.tiers()
        samples.append(Sample(time.perf_counter() - begin, one.shoppers.record.pages, tiers))


async def _break(one: _Running, at: int, begin: float, options: Options) -> tuple[float, float]:
    """Breaks something once so many visits are done, and mends it later; returns when, in seconds since the begin."""
    fault = FAULTS[options.fault]
    await one.shoppers.wait_until(at)
    began = time.perf_counter() - begin
    try:
        await fault.begin(one.servers)
        await asyncio.sleep(options.fault_seconds)
    finally:
        await fault.end(one.servers)
    return began, time.perf_counter() - begin


async def _result(one: _Running, shop: Shop) -> ArmResult:
    memory = {name: memory_bytes(pids) for name, pids in one.servers.pids().items()}
    wanted = one.shoppers.outcome()
    found = await one.arm.end_state(orders=wanted.orders)
    invariants = differences(shop, wanted, found)
    records = [each.record for each in one.rounds]
    beyond, oldest = sum(record.beyond for record in records), max(record.oldest for record in records)
    wrong = [line for record in records for line in record.wrong]
    invariants["nothing beyond its bound"] = (
        f"{beyond} product pages, up to {oldest:.2f} s instead of {one.arm.bound:g} s" if beyond else ""
    )
    invariants["pages show what they have to"] = f"{len(wrong)} do not, such as: {wrong[0]}" if wrong else ""
    return ArmResult(one.arm.name, one.arm.bound, one.rounds, memory, invariants)


def differences(shop: Shop, wanted: Outcome, found: EndState) -> dict[str, str]:
    """Compares what PostgreSQL holds with what it has to, and returns for each invariant what differs; empty if it holds."""
    wrong = []
    for product_id, product in shop.products.items():
        right = (product.stock - wanted.sold[product_id] + wanted.delivered[product_id], 0)
        if found.stock.get(product_id) != right:
            wrong.append(f"{product_id} has {found.stock.get(product_id)}, not {right}")
    full = wanted.emptied & found.full_carts
    invariants = {
        "stock equals": f"{len(wrong)} products differ: {wrong[0]}" if wrong else "",
        "carts empty after check-out": f"{len(full)} are not, such as that of {min(full)}" if full else "",
        "orders complete": "" if found.orders == wanted.orders else f"{found.orders} instead of {wanted.orders}",
    }
    if found.events is not None:
        invariants["events complete"] = "" if found.events == wanted.orders else f"{found.events} instead of {wanted.orders}"
    return invariants
