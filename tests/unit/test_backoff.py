"""What is away is tried less and less often, but for what others wait for: attempts are counted in a minute of simulated time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cache_sidecar.config.policy import load
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.backoff import FIRST, LONGEST, Backoff
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.relay.outbox import RETRY, Relay
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.outbox import Change, Progress, RelayStore
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.subscriber import Feed, staleness_bound
from cache_sidecar.tiers.ports import Primary, RelayL2, Watermark
from cache_sidecar.tiers.redis.keys import KeyNames
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.free_ports import free_ports

MINUTE = 60.0
# Attempts in it, from the shortest pauses that chance gives to the longest.
FEW = range(int(MINUTE / LONGEST), int(2 * MINUTE / LONGEST) + 8)


class Minute:
    """Simulated time: a pause is over at once, and after a minute no pause ends."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.is_over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if sum(self.pauses) >= MINUTE:
            self.is_over.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def attempts(minute: Minute, work: Any) -> int:
    """Returns after how many failed attempts the minute was over."""
    task = asyncio.ensure_future(work)
    over = asyncio.ensure_future(minute.is_over.wait())
    await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return len(minute.pauses)


async def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    minute = Minute()
    backoff = Backoff(minute.sleep)
    for _ in range(8):
        await backoff.pause()
    for number, pause in enumerate(minute.pauses):
        longest = min(LONGEST, FIRST * 2**number)
        assert longest / 2 <= pause <= longest
    backoff.reset()
    await backoff.pause()
    assert minute.pauses[-1] <= FIRST


async def test_a_primary_that_is_gone_is_subscribed_to_less_and_less_often() -> None:
    (port,) = free_ports([0])
    minute = Minute()
    feed = Feed(
        ("127.0.0.1", port),
        Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0)),
        KeyNames("n"),
        frozenset(range(85)),
        timeout=1.0,
        freshness_lease=FreshnessLease(),
        followers={},
        on_message=lambda: None,
        dependency=Dependencies().of("invalidations"),
        backoff=Backoff(minute.sleep),
    )
    assert await attempts(minute, inside.run(feed)) in FEW


class Nobody(RelayStore, RelayL2):
    """PostgreSQL that has no news, and Redis that is away."""

    def __init__(self, took: float = 0.0) -> None:
        """`took` is how many seconds it takes to say so."""
        self.clock = ManualClock()
        self._took = took

    async def after(self, position: int, *, limit: int) -> list[Change]:
        return []

    async def progress(self, region: str) -> Progress:
        return Progress(0, 0)

    async def prune(self, *, changes_after: float, requests_after: float) -> bool:
        return True

    async def primaries(self) -> Sequence[Primary]:
        self.clock.advance(self._took)
        raise TierFailed(Tier.L2, Failure.UNREACHABLE)

    async def write_watermarks(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
        raise AssertionError

    async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> dict[str, dict[int, Watermark]]:
        return {}


class Elections(Leadership):
    """Won at once, or never."""

    def __init__(self, *, won: bool) -> None:
        self._won = won
        self.stood = 0

    @asynccontextmanager
    async def term(self) -> AsyncIterator[Term]:
        self.stood += 1
        if not self._won:
            raise LeadershipLost("PostgreSQL: connection refused")
        yield cast("Term", Quiet())


class Quiet:
    """A term in which nothing is announced."""

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        return []


def relay(nobody: Nobody, minute: Minute) -> Relay:
    policy = load("")
    return Relay(
        nobody,
        nobody,
        nobody,
        policy,
        region="r",
        roles=["catalog"],
        retention=60.0,
        clock=nobody.clock,
        dependency=Dependencies().of("relay"),
        tables={},
        sleep=minute.sleep,
    )


async def test_a_relay_without_redis_tries_in_time_for_the_sidecars_and_pauses_as_long_as_it_tried() -> None:
    nobody, minute = Nobody(), Minute()
    await attempts(minute, relay(nobody, minute).run(Elections(won=True)))
    assert set(minute.pauses) == {RETRY}
    assert staleness_bound(Settings.model_fields["redis_timeout"].default) > 2 * RETRY
    for took, pause in ((1.5, 1.5), (5.0, LONGEST)):
        slow, minute = Nobody(took=took), Minute()
        await attempts(minute, relay(slow, minute).run(Elections(won=True)))
        assert minute.pauses == pytest.approx([pause] * len(minute.pauses))


async def test_a_relay_without_postgresql_stands_for_election_less_and_less_often() -> None:
    minute, elections = Minute(), Elections(won=False)
    assert await attempts(minute, relay(Nobody(), minute).run(elections)) in FEW
    assert elections.stood in FEW
