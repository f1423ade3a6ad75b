"""The relay folds events into the model: at once for the buyer, exactly once for everybody, and whatever dies in between."""

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.recommendations.folder import Folder, decode_user
from cache_sidecar.recommendations.model import Event
from cache_sidecar.relay import recommendations as relay
from cache_sidecar.store.leadership import Leadership, LeadershipLost
from cache_sidecar.store.recommendation import CHANNEL, ERASE_USER, JOB, ModelInUse, ModelStore
from cache_sidecar.store.user_event import EventRelayStore, UserEventStore
from tests.support.databases import RELAY, as_role, open_database, run
from tests.support.learning import buys, contents, dated, folding, learn, orders, position_of, same, stored, views, write_events
from tests.support.until import until


def events_of(count: int) -> list[Event]:
    """Returns purchases with views between them."""
    return dated(one for event in orders(count) for one in (views(0, event.user_id, *event.product_ids), event))


async def history_of(dsn: str, user_id: str) -> list[list[str]]:
    """Returns the baskets that sidecars see of a user, the newest first."""
    rows = await run(dsn, "SELECT history FROM cache_sidecar.recommendation_users WHERE user_id = %s", [user_id])
    return [list(basket.product_ids) for basket in decode_user(user_id, rows[0][0] if rows else None).baskets]


async def last_event(dsn: str) -> int:
    ((position,),) = await run(dsn, "SELECT coalesce(max(position), 0) FROM cache_sidecar.user_events")
    return int(position)


async def is_saved(dsn: str) -> bool:
    return await position_of(dsn) == await last_event(dsn)


async def test_events_that_are_moved_are_folded_in(database: str) -> None:
    """Doubled, shuffled, some before a relay leads and some after it, with the rights that a relay has."""
    events = events_of(300)
    doubled = events * 2
    random.Random(5).shuffle(doubled)
    await write_events(database, doubled[:700])
    async with folding(as_role(RELAY, database)):
        await until(lambda: is_saved(database))
        await write_events(database, doubled[700:])
        await until(lambda: has_shown(database, events))
    async with folding(database):
        await until(lambda: is_saved(database))
    assert same(await stored(database), contents(learn(events)))


async def test_a_relay_that_is_refused_waits_longer_each_time(database: str) -> None:
    await run(database, f"REVOKE SELECT ON cache_sidecar.user_events FROM {RELAY}")
    pauses: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            enough.set()
        await asyncio.sleep(0)

    dependency = Dependencies().of("recommendations")
    leadership = Leadership(as_role(RELAY, database), region="", job=JOB, channel=CHANNEL)
    task = asyncio.create_task(relay.RecommendationRelay(dependency=dependency, sleep=sleep).run(leadership))
    await enough.wait()
    await cancel_and_wait(task)
    # 0.2 s at first, and twice as much each time, up to 2 s; less a random half.
    assert pauses[4] >= 1.0
    failing = dependency.failing()
    assert failing is not None
    assert failing.reason == "PostgreSQL refused the model: permission denied for table user_events"


async def has_shown(dsn: str, events: list[Event]) -> bool:
    """Whether each user's newest purchase is in the user's history."""
    newest: dict[str, Event] = {}
    for event in events:
        if event.user_id not in newest or (event.time, newest[event.user_id].event_id) > (
            newest[event.user_id].time,
            event.event_id,
        ):
            newest[event.user_id] = event
    found = dict(await run(dsn, "SELECT user_id, history -> 'baskets' -> 0 ->> 1 FROM cache_sidecar.recommendation_users"))
    return found == {user_id: event.event_id for user_id, event in newest.items() if event.product_ids}


async def test_a_purchase_is_shown_at_once_and_its_pairs_are_saved_later(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What announces it is the commit: the relay would not look for an hour."""
    monkeypatch.setattr(relay, "LOOK_EVERY", 3600.0)
    first, second, third = dated([buys(1, "ann", "a", "b"), buys(2, "ann", "c", day=1), buys(3, "ben", "a", day=2)])
    await write_events(database, [first])
    async with folding(database):
        await until(lambda: is_saved(database))
        saved = await position_of(database)
        await write_events(database, [second, third])
        await until(lambda: shows(database, "ben", [["a"]]))
        assert await history_of(database, "ann") == [["c"], ["a", "b"]]
        assert await position_of(database) == saved
        assert await run(database, "SELECT product_id FROM cache_sidecar.recommendation_items ORDER BY 1") == [("a",), ("b",)]
        # The newest event is known, too: histories are as of its time.
        assert await run(database, "SELECT model_time FROM cache_sidecar.recommendation_model") == [(third.time,)]
    # The one that saves is another: what was shown counts once more, from where the first one saved.
    async with folding(database):
        await until(lambda: is_saved(database))
    assert same(await stored(database), contents(learn([first, second, third])))
    assert await run(database, "SELECT FROM cache_sidecar.recommendation_ahead") == []


async def shows(dsn: str, user_id: str, baskets: list[list[str]]) -> bool:
    return await history_of(dsn, user_id) == baskets


async def test_what_was_shown_twice_is_undone_as_a_whole(database: str) -> None:
    """The history as of the saved position is kept by the first `show`, and not by a later one."""
    one, two, three = dated([buys(1, "ann", "a"), buys(2, "ann", "b", day=1), buys(3, "ann", "c", day=2)])
    events = [event._replace(position=position) for position, event in enumerate((one, two, three), 1)]
    async with ModelStore.open(database) as store:
        folder = Folder(store)
        await folder.start()
        for event in events:
            await folder.fold([event])
            assert await folder.show()
        assert await history_of(database, "ann") == [["c"], ["b"], ["a"]]
        assert await store.users(["ann"]) == {}
        again = Folder(store)
        await again.start()
        assert again.position == 0
        await again.fold(events)
        await again.save()
    assert same(await stored(database), contents(learn(events)))


async def test_enough_views_renew_the_lists_of_a_user_who_has_some(database: str) -> None:
    enough = 3

    async def version() -> Any:
        return await run(database, "SELECT user_id, version, history FROM cache_sidecar.recommendation_users")

    async with ModelStore.open(database) as store:
        folder, position = Folder(store, renew_after_views=lambda: enough), iter(range(1, 100))
        await folder.start()

        async def fold(*events: Event) -> Any:
            assert await folder.fold([event._replace(position=next(position)) for event in events])
            assert await folder.show()
            return await version()

        ann, ben = views(0, "ann", "a"), views(0, "ben", "a")
        begun = await fold(*dated([buys(0, "ann", "a")]))
        assert await fold(ann, ben, ann, ben) == begun
        renewed = await fold(ann, ben)
        assert [(user_id, history) for user_id, _, history in renewed] == [(user_id, history) for user_id, _, history in begun]
        assert renewed[0][1] > begun[0][1]
        # Counting begins anew, and may be turned off.
        assert await fold(ann, ann) == renewed
        enough = 0
        assert await fold(ann) == renewed


SCRIPT = """
import asyncio, sys
from cache_sidecar.relay import recommendations
from tests.support.learning import folding

recommendations.SAVE_EVERY, recommendations.PUBLISH_EVERY, recommendations.PAGE = 0.2, 0.1, 50

async def main():
    async with folding(sys.argv[1]):
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.timeout(300)
async def test_a_relay_that_is_killed_again_and_again_makes_the_same_model(database: str) -> None:
    """Events arrive meanwhile: what it is killed in is a look, a show, a save, or a publication."""
    events, chance = events_of(500), random.Random(3)
    arriving = events * 2
    chance.shuffle(arriving)
    root = Path(__file__).parents[2]
    while arriving:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, database, cwd=root)
        before = await position_of(database)
        for _ in range(chance.randint(2, 6)):
            part, arriving = arriving[:40], arriving[40:]
            await write_events(database, part)

            async def has_seen(expected: int = before, process: asyncio.subprocess.Process = process) -> bool:
                shown = await run(database, "SELECT count(*) FROM cache_sidecar.recommendation_ahead")
                return process.returncode is not None or await position_of(database) > expected or shown != [(0,)]

            await until(has_seen, seconds=60)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with folding(database):
        await until(lambda: is_saved(database))
    assert same(await stored(database), contents(learn(events)))


async def test_an_erased_user_does_not_come_back(database: str) -> None:
    """The user's purchase was shown, and waits to be saved; then the events are erased, and the history after them."""
    first, second = dated([buys(1, "ann", "a", "b"), buys(2, "ben", "b", "c", day=1)])
    await write_events(database, [first])
    async with folding(database), open_database(database) as opened:
        await until(lambda: is_saved(database))
        await write_events(database, [*dated([buys(0, "ann", "c")]), second])
        await until(lambda: shows(database, "ben", [["b", "c"]]))
        count, _ = await UserEventStore(opened).erase("ann")
        assert count == 2
        # What a mark has a relay do.
        async with Leadership(database, region="r", job="user events", channel="").term() as term:
            events = EventRelayStore(term, "r")
            await events.pass_marks(await events.marks())
        await write_events(database, dated([buys(0, "eve", "a")]))
        await until(lambda: shows(database, "eve", [["a"]]))
    async with folding(database):
        await until(lambda: is_saved(database))
    assert await run(database, "SELECT user_id FROM cache_sidecar.recommendation_users ORDER BY 1") == [("ben",), ("eve",)]
    assert await run(database, "SELECT FROM cache_sidecar.recommendation_ahead") == []
    assert await run(database, "SELECT FROM cache_sidecar.user_events WHERE user_id = 'ann'") == []


async def test_an_erasure_takes_what_is_kept_of_a_user_who_is_ahead(database: str) -> None:
    first, second = dated([buys(1, "ann", "a"), buys(2, "ann", "b", day=1)])
    async with ModelStore.open(database) as store:
        folder = Folder(store)
        await folder.start()
        await folder.fold([first])
        await folder.save()
        await folder.fold([second])
        await folder.show()
        assert await run(database, ERASE_USER, ["ann"]) == [("ann",)]
        assert await store.users(["ann"]) == {}
        # What is in memory has the history still.
        await folder.fold([buys(3, "ann", "c", day=2)])
        assert not await folder.show()
        assert await history_of(database, "ann") == []


async def test_a_model_that_is_cleared_is_learned_anew(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the relay that leads. Rows that are published stay until they are published again."""
    monkeypatch.setattr(relay, "PAGE", 100)
    monkeypatch.setattr(relay, "STEP_EVERY", 0.0)
    events = events_of(300)
    products = len(learn(events).items)
    await write_events(database, events)
    async with folding(database):
        await until(lambda: is_published(database, products))
        await run(database, "DELETE FROM cache_sidecar.user_events WHERE user_id = 'user-001'")
        await run(database, "SELECT cache_sidecar.clear_recommendations()")
        await until(lambda: is_saved(database))
        assert await is_published(database, products)
    left = [event for event in events if event.user_id != "user-001"]
    assert same(await stored(database), contents(learn(left)))


async def is_published(dsn: str, count: int) -> bool:
    return await run(dsn, "SELECT count(*) FROM cache_sidecar.recommendation_rows") == [(count,)]


async def test_rows_are_published_from_what_is_saved_as_a_whole(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from half of the events, while the other half is read: a round would end with most rows deleted."""
    monkeypatch.setattr(relay, "PAGE", 10)
    # Saved after each page.
    monkeypatch.setattr(relay, "SAVE_EVERY", 0.0)
    await write_events(database, dated([buys(0, f"u{n}", "a", f"p{n}") for n in range(25)]))
    publications: list[int] = []
    publish = ModelStore.publish

    async def recording(self: ModelStore, numbers: Any, rows: Any) -> None:
        publications.append(await position_of(database))
        await publish(self, numbers, rows)

    monkeypatch.setattr(ModelStore, "publish", recording)
    async with folding(database):
        await until(lambda: is_published(database, 26))
    assert set(publications) == {await last_event(database)}


async def test_one_relay_of_all_regions_folds(database: str) -> None:
    await write_events(database, dated([buys(0, "ann", "a")]))
    async with folding(database):
        await until(lambda: is_saved(database))
        with pytest.raises(ModelInUse):
            async with ModelStore.open(database):
                pass
        async with folding(database):
            await run(database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            await write_events(database, dated([buys(0, "ben", "a")]))
            await until(lambda: shows(database, "ben", [["a"]]))


async def test_a_former_leader_saves_nothing(database: str) -> None:
    async with Leadership(database, region="", job=JOB, channel=CHANNEL).term() as term:
        folder = Folder(ModelStore(term.session))
        await folder.start()
        await folder.fold(dated([buys(1, "ann", "a")]))
        await run(database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        with pytest.raises(Exception, match="PostgreSQL"):
            await folder.save()
        with pytest.raises(LeadershipLost):
            await term.fetch("SELECT 1", [])
    assert await run(database, "SELECT FROM cache_sidecar.recommendation_users") == []


async def test_events_are_read_in_pages_that_leave_out_what_teaches_nothing(database: str) -> None:
    events = dated([views(0, "ann", "a", day=1), buys(0, "ann", "b", "a", day=2), views(0, "ann", "a", day=5)])
    events += dated([views(0, "ben", "a"), views(0, "ben", "a", day=-1)])
    await write_events(database, events)
    async with ModelStore.open(database) as store:
        page = await store.events(0, 4)
        assert page.is_full
        kept = [(row.event_id, row.type) for row in page.events]
        newest = max(events[:4], key=lambda event: event.time)
        assert kept == [(event.event_id, event.type) for event in (*events[1:2], *dict.fromkeys((newest, events[3])))]
        assert (page.events[0].product_ids, page.events[0].time) == (["b", "a"], events[1].time)
        rest = await store.events(page.events[-1].position, 4)
        assert ([row.event_id for row in rest.events], rest.is_full) == ([events[4].event_id], False)
        assert await store.events(rest.events[-1].position, 4) == ([], False)
