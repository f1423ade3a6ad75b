"""Who leads: one relay per region and database, and another one soon after it is gone, or hangs."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.store import leadership as module
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from tests.support.databases import INSERT, run
from tests.support.proxy import Proxy
from tests.support.until import until

NEVER = 3600.0


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_EVERY", 0.01)


@pytest.fixture
async def term(database: str) -> AsyncIterator[Term]:
    async with Leadership(database, region="eu").term() as gained:
        yield gained


class Candidate:
    """Stands for election until it is told to leave."""

    def __init__(self, dsn: str, region: str = "eu") -> None:
        self.leads = asyncio.Event()
        self.term: Term | None = None
        self._leadership = Leadership(dsn, region=region)
        self.task = asyncio.create_task(self._stand())

    async def _stand(self) -> None:
        async with self._leadership.term() as self.term:
            self.leads.set()
            await asyncio.Event().wait()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def within(work: asyncio.Future[None]) -> None:
    async with asyncio.timeout(10):
        await work


async def attempts(database: str) -> int:
    """Returns how many sessions wait to lead, and asked at least once since they came."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%%pg_terminate_backend(ses%%'"
    )
    ((count,),) = await run(database, query.replace("%%", "%"))
    return int(count) - 1  # this one says so, too


# Leading


async def test_one_leads_and_the_next_follows_when_it_leaves(database: str) -> None:
    first = Candidate(database)
    await first.leads.wait()
    second, elsewhere = Candidate(database), Candidate(database, "us")
    await elsewhere.leads.wait()
    await until(lambda: is_waiting(database))
    assert not second.leads.is_set()
    await first.leave()
    await within(asyncio.ensure_future(second.leads.wait()))
    for one in (second, elsewhere):
        await one.leave()


async def is_waiting(database: str) -> bool:
    return await attempts(database) > 0


async def test_one_that_hangs_is_followed_and_has_no_say_any_more(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", NEVER)
    hanging = Candidate(database)
    await hanging.leads.wait()
    monkeypatch.setattr(module, "SILENCE", 0.05)
    second = Candidate(database)
    await within(asyncio.ensure_future(second.leads.wait()))
    assert hanging.term is not None
    assert second.term is not None
    with pytest.raises(LeadershipLost):
        await hanging.term.fetch("SELECT 1", [])
    with pytest.raises(LeadershipLost):
        await hanging.term.wait(NEVER)
    assert await second.term.fetch("SELECT 1", []) == [(1,)]
    for one in (hanging, second):
        await one.leave()


async def test_one_that_says_something_now_and_then_stays(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.01)
    first = Candidate(database)
    await first.leads.wait()
    second = Candidate(database)
    query = """SELECT state_change FROM pg_stat_activity JOIN pg_locks USING (pid)
               WHERE datname = current_database() AND locktype = 'advisory' AND objsubid = 2 AND granted"""
    before = await run(database, query)
    for _ in range(5):
        await until(lambda before=before: changed(database, query, before))
        before = await run(database, query)
    await until(lambda: is_waiting(database))
    assert not second.leads.is_set()
    for one in (first, second):
        await one.leave()


async def changed(database: str, query: str, before: list[tuple[object, ...]]) -> bool:
    return await run(database, query) != before


async def test_one_whose_machine_is_gone_is_followed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from it, and no connection ends."""
    target = database.rpartition("@")[2].partition("/")[0]
    async with Proxy(target) as proxy:
        gone = Candidate(database.replace(target, proxy.address))
        await gone.leads.wait()
        proxy.stall()
        monkeypatch.setattr(module, "SILENCE", 0.05)
        second = Candidate(database)
        await within(asyncio.ensure_future(second.leads.wait()))
        for one in (gone, second):
            await one.leave()


async def test_a_server_that_is_away_is_said() -> None:
    with pytest.raises(LeadershipLost, match="PostgreSQL: "):
        async with Leadership("postgresql://nobody@127.0.0.1:1/none", region="eu").term():
            pass


async def test_a_connection_that_breaks_ends_the_term(database: str) -> None:
    target = database.rpartition("@")[2].partition("/")[0]
    async with Proxy(target) as proxy, Leadership(database.replace(target, proxy.address), region="eu").term() as term:
        proxy.cut()
        with pytest.raises(LeadershipLost):
            await term.wait(NEVER)


# Waiting


async def test_a_change_ends_the_wait(term: Term, database: str) -> None:
    waiting = asyncio.create_task(term.wait(NEVER))
    await asyncio.sleep(0)
    await run(database, INSERT, ["a", "Sofa"])
    await within(waiting)


async def test_a_change_between_two_waits_is_not_lost(term: Term, database: str) -> None:
    for id in "abc":
        await run(database, INSERT, [id, "Sofa"])
        await term.fetch("SELECT 1", [])
        await within(asyncio.create_task(term.wait(NEVER)))


async def test_without_a_change_it_ends_after_its_time(term: Term) -> None:
    await within(asyncio.create_task(term.wait(0.01)))


async def test_other_channels_do_not_end_the_wait(term: Term, database: str) -> None:
    waiting = asyncio.create_task(term.wait(NEVER))
    await run(database, "NOTIFY something_else")
    await run(database, "SELECT 1")
    assert not waiting.done()
    await run(database, "NOTIFY cache_sidecar_outbox")
    await within(waiting)
