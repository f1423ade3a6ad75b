"""What the read path does at its bounds, and when it ends."""

import asyncio

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core.errors import Overloaded
from cache_sidecar.tiers.path import loader
from cache_sidecar.tiers.ports import Record, Source
from tests.support import inside
from tests.support.dataset_case import Case, OpenCase
from tests.support.until import until

L1, STORE = Source.L1, Source.STORE


async def test_more_waiting_ids_than_the_bound_are_refused_at_once(
    case: Case, open_sidecar: OpenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "MAX_WAITING", 10)
    async with open_sidecar() as small:
        with pytest.raises(Overloaded):
            await small.dataset.get_many([f"id{number}" for number in range(11)])
        await until(lambda: not small.dataset.loader.l2_batch.waiting)
        assert await small.get("a") == (None, STORE)


async def test_work_behind_the_replies_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.dataset.loader.background, inside.MAX_RUNNING, 1)
    case.l2.before_fill.close()
    for id in "ab":
        case.rows.commit(id, 1, b"sofa")
        assert (await case.dataset.get(id)).source is STORE
    case.l2.before_fill.open()
    await case.settled()
    assert isinstance(await case.in_l2("a"), Record)
    assert await case.in_l2("b") is None


async def test_a_refresh_that_is_left_out_is_made_up_for(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.rows.commit("a", 1, b"sofa")
    await case.get("a")
    case.clock.advance(100)
    with monkeypatch.context() as patch:
        patch.setattr(case.dataset.loader.background, inside.MAX_RUNNING, 0)
        assert await case.get("a") == (b"sofa", L1)
    reads = case.l2.reads
    assert await case.get("a") == (b"sofa", L1)
    assert case.l2.reads == reads + 1


async def test_a_defect_behind_a_reply_is_logged(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(case.l2, "fill", broken)
    with capture_logs() as logs:
        await case.get("a")
    assert [log["event"] for log in logs] == ["background work failed"]


async def test_close_leaves_nothing_running(open_sidecar: OpenCase) -> None:
    before = asyncio.all_tasks()
    async with open_sidecar() as case:
        case.rows.commit("a", 1, b"sofa")
        await case.dataset.get("a")
        case.clock.advance(100)
        await case.l2.drop("product", ["a"])
        case.rows.before.close()
        await case.dataset.get("a")
        await case.rows.before.reached()
        closing = asyncio.create_task(case.dataset.close())
        await asyncio.sleep(0)
        assert not closing.done()
        case.rows.before.open()
        await closing
        assert not case.dataset.loader.background.running
        assert isinstance(await case.in_l2("a"), Record)
    assert asyncio.all_tasks() - before == set()
