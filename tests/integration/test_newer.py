"""What is newer than PostgreSQL was forged, or lost by PostgreSQL: it is dropped from every cache, and never outlives a change.

Two cases of one namespace are two sidecars, see `test_dataset_races.py`.
"""

import asyncio

import pytest
import structlog

from cache_sidecar.core.errors import Failure
from cache_sidecar.tiers.path.inspector import Inspection, Inspector
from cache_sidecar.tiers.ports import Newer, Record, Source
from cache_sidecar.tiers.redis import codec
from tests.support import dataset_case, inside
from tests.support.dataset_case import BYPASS, POLICY, Case, Direct, OpenCase, reading, take_back
from tests.support.engine_params import L1S
from tests.support.until import until

L1, L2, STORE = Source.L1, Source.L2, Source.STORE
HIGH = 2**62


@pytest.fixture(autouse=True, params=L1S)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with each L1."""
    monkeypatch.setattr(dataset_case, "make_l1", request.param)


async def forge(case: Case, value: bytes | None = b"forged", version: int = HIGH) -> None:
    """Writes a record into Redis that claims to be newer than anything."""
    await take_back(case.l2, Record(version, case.clock.now(), value))


def alarms(case: Case) -> tuple[int, int]:
    """Returns how many newer versions were dropped from memory, and from Redis."""
    counters = case.dataset.loader.counters
    return counters[L1].newer, counters[L2].newer


@pytest.mark.parametrize("value", [b"forged", None])
async def test_no_forged_version_outlives_a_write(a: Case, b: Case, value: bytes | None) -> None:
    await a.write("a", 1, b"old")
    await forge(a, value)
    assert await b.get("a") == (value, L2), "Redis is trusted for reads"
    with structlog.testing.capture_logs() as logs:
        await a.write("a", 2, b"new")
    assert [(log["version"], log["postgres"]) for log in logs if log["event"].startswith("ALARM")] == [(HIGH, 2)]
    assert alarms(a) == (0, 1)
    b.dataset.on_invalidate("a", 0)  # the message
    assert await a.get("a") == (b"new", STORE)
    assert await b.get("a") == (b"new", L2)


async def test_a_write_that_cannot_be_compared_is_left_to_the_relay(a: Case) -> None:
    await a.write("a", 1, b"old")
    await forge(a)
    a.rows.commit("a", 2, b"new")
    a.rows.failure = Failure.UNREACHABLE
    assert not await a.dataset.publish({"a": a.dataset.record(2, b"new")})
    assert await a.dataset.publish({}), "of nothing, nothing is missing"


async def test_a_writer_that_another_overtook_raises_no_alarm(a: Case, b: Case) -> None:
    a.rows.commit("a", 1, b"one")
    a.rows.commit("a", 2, b"two")
    await b.dataset.publish({"a": b.dataset.record(2, b"two")})
    assert await a.dataset.publish({"a": a.dataset.record(1, b"one")})
    assert alarms(a) == (0, 0)
    assert await a.in_l2("a") is not None


async def test_a_load_that_began_before_a_commit_raises_no_alarm(a: Case, b: Case) -> None:
    """Its row is older than what Redis holds by then: it was read before, and proves nothing."""
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(a, wanted=BYPASS)
    await a.rows.after.reached()
    await b.write("a", 2, b"new")
    a.rows.after.open()
    await late
    await a.settled()
    assert alarms(a) == (0, 0)
    found = await a.in_l2("a")
    assert found is not None
    assert found.version == 2


async def test_the_next_read_of_postgresql_drops_a_forged_record(a: Case, b: Case) -> None:
    await a.write("a", 1, b"ours")
    await forge(a)
    assert await b.get("a") == (b"forged", L2)
    assert await b.get("a", BYPASS) == (b"ours", STORE)
    await b.settled()
    assert alarms(b)[1] == 1
    found = await b.in_l2("a")
    assert found is None, "a mark"
    assert (await b.get("a"))[0] == b"ours"


async def test_the_next_read_of_postgresql_drops_a_record_of_no_row(a: Case) -> None:
    await forge(a)
    assert await a.get("a", BYPASS) == (None, STORE)
    await a.settled()
    a.forget()
    assert await a.get("a") == (None, STORE)


async def test_a_deletion_that_redis_has_first_is_kept(a: Case) -> None:
    """Without a row there is nothing to compare with: the tombstone goes on refusing what is older."""
    await a.write("a", 1, b"old")
    await a.write("a", 3, None)
    assert await a.get("a", BYPASS) == (None, STORE)
    await a.settled()
    found = await a.in_l2("a")
    assert found is not None
    assert (found.version, found.value) == (3, None)
    assert alarms(a) == (0, 0)


@pytest.mark.parametrize("what", ["mark", "tombstone"])
async def test_what_denies_a_row_heals_with_the_next_read_of_postgresql(a: Case, what: str) -> None:
    await a.write("a", 1, b"ours")
    key = inside.names_of(a.l2).key("product", "a")
    if what == "mark":
        await Direct(a.l2).set(key, codec.invalidation(HIGH))
    else:
        await forge(a, None)
    assert await a.get("a", BYPASS) == (b"ours", STORE)
    a.forget()
    assert await a.get("a") == (b"ours", STORE)
    a.forget()
    assert await a.get("a") in ((b"ours", STORE), (b"ours", L2))
    a.forget()
    assert await a.get("a") == (b"ours", L2)


async def test_a_forged_invalidation_keeps_nothing_out_of_memory_for_good(a: Case) -> None:
    await a.write("a", 1, b"ours")
    a.dataset.on_invalidate("a", HIGH)
    assert await a.get("a") == (b"ours", L2)
    assert await a.get("a") == (b"ours", L2), "refused: Redis may be behind"
    assert await a.get("a", BYPASS) == (b"ours", STORE)
    assert alarms(a) == (1, 0)
    assert await a.get("a") == (b"ours", L1)


async def test_an_invalidation_that_arrives_during_the_read_stays(a: Case) -> None:
    """The row may have been read before the change that it announces."""
    a.rows.commit("a", 1, b"old")
    a.rows.after.close()
    late = reading(a, wanted=BYPASS)
    await a.rows.after.reached()
    a.rows.commit("a", 2, b"new")
    a.dataset.on_invalidate("a", 2)
    a.rows.after.open()
    await late
    await a.settled()
    assert alarms(a) == (0, 0)
    assert a.l1.get("a") is None
    assert a.l1.newest("a") == 2


async def test_a_forged_hit_is_an_alarm_and_dropped_everywhere(open_sidecar: OpenCase) -> None:
    async with open_sidecar(policy=POLICY.model_copy(update={"inspect_every": 1})) as case:
        inspector = Inspector(case.dataset, case.rows, clock=case.clock)
        await inspector.step()
        case.rows.commit("a", 1, b"ours")
        await forge(case)
        assert await case.get("a") == (b"forged", L2)
        assert await case.get("a") == (b"forged", L1)
        await inspector.step()
        assert inspector.counts == Inspection(newer=1)
        assert case.l1.get("a") is None
        assert await case.in_l2("a") is None
        assert await case.get("a") == (b"ours", STORE)


async def test_a_record_from_the_future_is_not_read(a: Case) -> None:
    await a.write("a", 1, b"ours")
    await take_back(a.l2, Record(1, a.clock.now() + 3600, b"forged"))
    assert await a.get("a") == (b"ours", STORE)
    a.forget()
    assert await a.get("a") == (b"ours", L2)


async def test_only_the_version_that_was_found_is_retracted(a: Case) -> None:
    """Meanwhile a writer may have put the next one there; and a deletion leaves no row, but a version that has to stay."""
    await a.write("a", 3, b"next")
    await a.write("b", 3, None)
    await a.l2.retract("product", {"a": Newer(HIGH, 2), "b": Newer(3, None)}, ttl=100)
    found = await a.l2.read("product", ["a", "b"])
    assert {id: (record.version, record.value) for id, record in found.items()} == {"a": (3, b"next"), "b": (3, None)}


async def test_writers_of_one_row_that_are_overtaken_share_a_query(a: Case, b: Case) -> None:
    a.rows.commit("a", 20, b"newest")
    await b.dataset.publish({"a": b.dataset.record(20, b"newest")})
    published = await asyncio.gather(*(a.dataset.publish({"a": a.dataset.record(n, b"old")}) for n in range(1, 20)))
    assert all(published)
    assert len(a.rows.calls) < 19
    assert alarms(a) == (0, 0)


async def test_what_is_found_later_is_not_compared_with_a_row_read_earlier(a: Case) -> None:
    a.rows.commit("a", 1, b"one")
    await forge(a)
    a.rows.after.close()
    first = asyncio.create_task(a.dataset.publish({"a": a.dataset.record(1, b"one")}))
    await a.rows.after.reached()
    a.rows.commit("a", 3, b"three")
    await take_back(a.l2, Record(3, a.clock.now(), b"three"))
    second = asyncio.create_task(a.dataset.publish({"a": a.dataset.record(2, b"two")}))
    await until(lambda: inside.recheck_batch_of(a.dataset.loader).waiting)
    a.rows.after.open()
    assert await first
    assert await second
    assert alarms(a) == (0, 1)
    found = await a.in_l2("a")
    assert found is not None
    assert found.version == 3
