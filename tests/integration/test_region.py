"""A region that is told of changes too late says so in its replies."""

import asyncio
from collections.abc import Sequence

import pytest
import structlog

from cache_sidecar.core.clock import CLOCK_SKEW
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.tiers.coherence import region as module
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.coherence.region import Region
from cache_sidecar.tiers.ports import PARTITIONS, Primary, RelayWatermarks, Source, Watermark, partition_of
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.dataset_case import POLICY, Case, Direct, OpenCase, open_case, say
from tests.support.gates import turns
from tests.support.until import until

BOUND = 10.0
BOUNDED = POLICY.model_copy(update={"staleness_bound": BOUND})


def region_of(case: Case, watermarks: RelayWatermarks | None = None) -> tuple[Region, RedisWatermarks]:
    own = RedisWatermarks(inside.connection_of(case.l2), inside.names_of(case.l2))
    return Region(watermarks or own, {"catalog": [case.dataset]}, clock=case.clock, dependencies=Dependencies()), own


async def stale(case: Case, id: str = "a") -> tuple[bool, Source]:
    answer = await case.answer(id)
    return answer.stale, answer.source


async def test_replies_say_stale_while_the_relay_is_behind_its_bound(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        await case.write("b", 1, b"old")
        await case.get("a")
        await say(watermarks, ["catalog"], case.clock.now())
        case.clock.advance(BOUND)
        await region.step()
        assert await stale(case) == (False, Source.L1)
        case.clock.advance(0.1)
        await region.step()
        assert await stale(case) == (True, Source.L1)
        assert await stale(case, "b") == (True, Source.L2)
        assert await stale(case, "b") == (True, Source.L1), "memory goes on being filled"
        assert await stale(case, "c") == (False, Source.STORE)
        await say(watermarks, ["catalog"], case.clock.now())
        await region.step()
        assert await stale(case) == (False, Source.L1)
        assert await stale(case, "b") == (False, Source.L1)


async def test_a_suspect_partition_has_its_own_limit_also_when_the_region_is_behind(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        await case.write("a", 1, b"old")
        await case.get("a")
        case.dataset.set_lagging(partition_of("a"), lagging=True)
        case.freshness_lease(trusted=False)
        case.clock.advance(BOUNDED.stale_limit)
        assert await stale(case) == (True, Source.L1)
        case.clock.advance(0.1)
        assert (await stale(case))[1] is Source.L2
        case.dataset.set_lagging(partition_of("a"), lagging=False)
        assert (await stale(case))[1] is Source.L2, "still suspect"
        case.freshness_lease()
        assert await stale(case) == (False, Source.L1)


async def test_who_never_heard_of_a_relay_counts_from_the_start(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        case.clock.advance(BOUND)
        await region.step()
        assert await stale(case) == (False, Source.L2)
        case.clock.advance(0.1)
        await region.step()
        assert (await stale(case))[0] is True
        await say(watermarks, ["catalog"], case.clock.now())
        await region.step()
        assert (await stale(case))[0] is False


async def test_a_relay_that_died_before_the_start_is_judged_by_its_last_sign(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        await say(watermarks, ["catalog"], case.clock.now() - BOUND - 1)
        await region.step()
        assert (await stale(case))[0] is True


async def test_a_sign_that_is_lost_or_goes_back_changes_nothing(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        await say(watermarks, ["catalog"], case.clock.now())
        await region.step()
        await say(watermarks, ["catalog"], case.clock.now() - 3600)
        await region.step()
        assert await stale(case) == (False, Source.L2)
        client = Direct(case.l2)
        await client.unlink(inside.names_of(case.l2).watermark("catalog", partition_of("a")))
        await region.step()
        assert (await stale(case))[0] is False
        case.clock.advance(BOUND + 1)
        await region.step()
        assert (await stale(case))[0] is True


async def test_a_redis_that_does_not_answer_lets_time_pass(namespace: str) -> None:
    class Away:
        is_away = False

        async def primaries(self) -> Sequence[Primary]:
            return ()

        async def write_watermarks(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
            raise AssertionError("sidecars don't say so")

        async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> dict[str, dict[int, Watermark]]:
            if self.is_away:
                raise TierFailed(Tier.L2, Failure.UNREACHABLE)
            return {role: dict.fromkeys(range(PARTITIONS), Watermark(clock.now(), "relay", 1)) for role in roles}

    clock, watermarks = ManualClock(), Away()
    async with open_case("127.0.0.1:1", namespace, clock=clock, policy=BOUNDED) as case:
        case.rows.commit("a", 1, b"old")
        await case.get("a")
        region, _ = region_of(case, watermarks)
        await region.step()
        watermarks.is_away = True
        clock.advance(BOUND + 1)
        await region.step()
        assert await stale(case) == (True, Source.L1)


async def test_it_looks_now_and_then(open_sidecar: OpenCase, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY", "READ_EVERY"):
        monkeypatch.setattr(module, name, 0.0)
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await say(watermarks, ["catalog"], case.clock.now() - BOUND - 1)
        task = asyncio.create_task(region.run())
        await until(lambda: any(inside.lagging_of(case.dataset)))
        await say(watermarks, ["catalog"], case.clock.now())
        await until(lambda: not any(inside.lagging_of(case.dataset)))
        await cancel_and_wait(task)


async def test_watermarks_are_read_at_each_step_and_anew_while_a_partition_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    monkeypatch.setattr(module, "READ_EVERY", 3600.0)
    monkeypatch.setattr(module, "PART", 3600.0)
    asked: list[bool] = []

    class Watermarks:
        async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> dict[str, dict[int, Watermark]]:
            asked.append(shared)
            return {}

    clock, node = ManualClock(), ("redis", 6379)
    quarantine = Quarantine(freshness_lease=FreshnessLease(), holder=lambda _: node, clock=clock)
    region = Region(
        Watermarks(), {"catalog": []}, quarantines={"catalog": quarantine}, clock=clock, dependencies=Dependencies()
    )
    task = asyncio.create_task(region.run())
    await until(lambda: len(asked) > 3)
    assert not any(asked)
    quarantine.on_feed_trusted(range(PARTITIONS), node, "history")
    for partition in range(PARTITIONS):
        for number in range(3):
            quarantine.on_watermark(partition, Watermark(0.0, "relay", number))
    count = len(asked)
    await turns(100)
    assert asked[count:] == [], "those that are known are new enough"
    monkeypatch.setattr(module, "READ_EVERY", 0.0)
    await until(lambda: len(asked) > count + 3)
    assert all(asked[count:])
    await cancel_and_wait(task)


@pytest.mark.parametrize("forged", ["inf", "nan", "-inf", "1e12", "later"])
async def test_a_forged_watermark_hides_no_lag(open_sidecar: OpenCase, forged: str) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        await say(watermarks, ["catalog"], case.clock.now())
        await region.step()
        moment = f"{case.clock.now() + CLOCK_SKEW + 100:.3f}" if forged == "later" else forged
        await Direct(case.l2).set(inside.names_of(case.l2).watermark("catalog", partition_of("a")), f"{moment} relay 1")
        with structlog.testing.capture_logs() as logs:
            await region.step()
            await region.step()
        assert [log["ignored"] for log in logs] == [1], "logged once"
        assert (await stale(case))[0] is False, "the last real one counts"
        case.clock.advance(BOUND + 0.1)
        await region.step()
        assert (await stale(case))[0] is True


async def test_a_relay_whose_clock_is_a_little_ahead_is_believed(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=BOUNDED) as case:
        region, watermarks = region_of(case)
        await case.write("a", 1, b"old")
        await say(watermarks, ["catalog"], case.clock.now() + CLOCK_SKEW)
        case.clock.advance(CLOCK_SKEW + BOUND)
        await region.step()
        assert (await stale(case))[0] is False
