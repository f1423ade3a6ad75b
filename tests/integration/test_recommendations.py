"""The model in PostgreSQL: whatever comes twice, in whatever order, and whenever the process is killed, it is the same model."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cache_sidecar.core.errors import ServerUnreachable, SettingsError
from cache_sidecar.recommendations import folder as folder_module
from cache_sidecar.recommendations.folder import Folder, decode_row, decode_user
from cache_sidecar.recommendations.model import Event
from cache_sidecar.recommendations.rank import HOME_PAGE, OTHERS_YOU_MAY_LIKE, POPULAR, Popular, profile_of, rank
from cache_sidecar.recommendations.rows import ItemRow
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.recommendation import ERASE_USER, RECOGNIZED, ModelInUse, ModelStore, RecommendationStore
from tests.support.databases import open_database, run
from tests.support.learning import (
    buys,
    contents,
    fold_all,
    learn,
    orders,
    popular_of,
    publish_all,
    rows_of,
    same,
    stored_contents,
    views,
)
from tests.support.until import until


@pytest.fixture
async def dsn(database: str) -> str:
    await migrate(database, "analytics")
    return database


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[ModelStore]:
    async with ModelStore.open(dsn) as opened:
        yield opened


def events_of(count: int = 600) -> list[Event]:
    """Returns purchases with views between them."""
    found = []
    for event in orders(count):
        found += [views(0, event.user_id, *event.product_ids), event]
    return number([event._replace(event_id=f"e{n}") for n, event in enumerate(found)])


def number(events: Sequence[Event]) -> list[Event]:
    """Returns events with their positions in this order."""
    return [event._replace(position=position) for position, event in enumerate(events, 1)]


async def test_the_stored_model_is_the_one_learned_in_memory(store: ModelStore) -> None:
    events = events_of()
    await fold_all(store, events)
    assert (await store.totals()).position == len(events)
    assert same(await stored_contents(store), contents(learn(events)))


async def test_published_rows_and_lists_are_those_of_the_model_in_memory(store: ModelStore, dsn: str) -> None:
    events = events_of()
    await fold_all(store, events)
    rows, model = await publish_all(store), learn(events)
    assert rows.keys() == model.items.keys()
    expected = rows_of(model)
    assert all(same(close(decode_row(row)), close(expected[id])) for id, row in rows.items())

    async with open_database(dsn) as database:
        reads = RecommendationStore(database)
        popular = Popular(dict(await store.popular(POPULAR)))
        assert same(popular.shares, dict(popular_of(model).shares))
        (user,) = await reads.users(["user-001", "nobody"])
        history, model_time = user.history, user.model_time
        profile = profile_of(decode_user("user-001", history), model_time)
        assert profile == profile_of(model.users["user-001"], model.totals.time)
        loaded = {row.product_id: decode_row(row) for row, _ in await reads.rows(profile.strongest)}
        for placement in (HOME_PAGE, OTHERS_YOU_MAY_LIKE):
            results = rank(placement, rows=loaded, popular=popular, profile=profile)
            assert results == rank(placement, rows=loaded, popular=popular, profile=profile)
            in_memory = rank(placement, rows=expected, popular=popular_of(model), profile=profile)
            assert [one.product_id for one in results] == [one.product_id for one in in_memory]
        assert decode_user("nobody", None).products == {}


def close(row: ItemRow) -> Any:
    """Returns a row to be compared: published weights have 4 bytes."""
    return (
        row.product_id,
        [list(part) for part in (row.together, row.also)],
        [[round(value, 5) for value in part.values()] for part in (row.together, row.also)],
    )


async def test_the_same_events_twice_and_in_another_order_make_the_same_model(store: ModelStore) -> None:
    events = events_of()
    await fold_all(store, events, page=37)
    once, rows = await stored_contents(store), await publish_all(store)

    chance = random.Random(7)
    doubled = events * 2
    chance.shuffle(doubled)
    await store.clear()
    assert (await store.totals()).position == 0
    await fold_all(store, number(doubled), page=100, save_every=3)
    assert same(await stored_contents(store), once)
    again = await publish_all(store)
    assert {id: row[1:5] for id, row in again.items()} == {id: row[1:5] for id, row in rows.items()}


async def test_what_was_folded_in_before_is_not_folded_in_again(store: ModelStore) -> None:
    events = events_of(100)
    folder = Folder(store)
    await folder.start()
    await folder.fold(events)
    # In memory, then by the position, then by the purchase's id, which comes with another position.
    await folder.fold(events)
    await folder.save()
    await folder.fold(events[:-10])
    assert folder.position == len(events)
    await folder.fold([event._replace(position=1000 + event.position) for event in events])
    assert folder.position == 1000 + len(events)
    await folder.save()
    assert same(await stored_contents(store), contents(learn(events)))


async def test_purchases_are_recognized_for_a_while(store: ModelStore, dsn: str) -> None:
    await fold_all(store, [buys(1, "ann", "a")])
    await run(
        dsn, "UPDATE cache_sidecar.recommendation_purchases SET fold_time = fold_time - make_interval(secs => %s)", [RECOGNIZED]
    )
    await fold_all(store, [buys(2, "ann", "b")])
    assert await run(dsn, "SELECT event_id FROM cache_sidecar.recommendation_purchases") == [("event-2",)]


async def test_a_long_catch_up_is_saved_in_parts(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "PAGE", 10)
    monkeypatch.setattr(folder_module, "EVENTS", 50)
    events, folder = events_of(100), Folder(store)
    await folder.start()
    await folder.fold(events[:80])
    assert (folder.position, folder.saved_position) == (80, 50)
    monkeypatch.setattr(folder_module, "LOADED", 1)
    await folder.fold(events[80:])
    assert folder.saved_position == len(events)
    assert same(await stored_contents(store), contents(learn(events)))


SCRIPT = """
import asyncio, sys
from cache_sidecar.recommendations import folder
from cache_sidecar.store.recommendation import ModelStore
from tests.integration.test_recommendations import events_of
from tests.support.learning import fold_all

async def main():
    print("folding", flush=True)
    async with ModelStore.open(sys.argv[1]) as store:
        await fold_all(store, events_of(int(sys.argv[2])), page=20)

asyncio.run(main())
"""


async def test_a_process_that_is_killed_again_and_again_makes_the_same_model(dsn: str) -> None:
    """Each is killed some way further: at any statement, wherever that is."""
    events, chance, killed, position = events_of(600), random.Random(3), 0, 0
    while position < len(events):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, dsn, "600", cwd=Path(__file__).parents[2])
        goal = position + chance.randint(1, 250)

        async def is_far_enough(process: asyncio.subprocess.Process = process, goal: int = goal) -> bool:
            ((found,),) = await run(dsn, "SELECT position FROM cache_sidecar.recommendation_model")
            return process.returncode is not None or found >= goal

        await until(is_far_enough, seconds=60)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        await process.wait()
        await until(lambda: is_free(dsn), seconds=20)
        ((position,),) = await run(dsn, "SELECT position FROM cache_sidecar.recommendation_model")
    assert killed > 3
    async with ModelStore.open(dsn) as store:
        assert same(await stored_contents(store), contents(learn(events)))


async def is_free(dsn: str) -> bool:
    """Whether the server has noticed that the process is gone."""
    ((sessions,),) = await run(
        dsn,
        """SELECT count(*) FROM pg_stat_activity
           WHERE application_name = 'cache_sidecar recommendations' AND datname = current_database()""",
    )
    return sessions == 0


async def test_only_one_process_folds(store: ModelStore, dsn: str) -> None:
    with pytest.raises(ModelInUse, match="only one can"):
        async with ModelStore.open(dsn):
            pass


async def test_a_process_that_was_overtaken_saves_nothing(store: ModelStore, dsn: str) -> None:
    """Its session ended, and with it the lock, which it learns only now: through a pooler, not even that."""
    events, folder = events_of(50), Folder(store)
    await folder.start()
    await folder.fold(events[:40])
    await run(dsn, "UPDATE cache_sidecar.recommendation_model SET position = 60")
    assert not await folder.save()
    assert folder.position == 60
    assert (await stored_contents(store))["items"] == {}


async def test_a_user_who_is_erased_while_events_are_folded_in_does_not_come_back(store: ModelStore, dsn: str) -> None:
    """The history is read, the user is erased, and only then what was read is saved."""
    await fold_all(store, [buys(1, "ann", "a", "b"), buys(2, "ben", "a")])
    folder = Folder(store)
    await folder.start()
    await folder.fold([buys(3, "ann", "c", day=1), buys(4, "ben", "c", day=1)])
    assert await run(dsn, ERASE_USER, ["ann"]) == [("ann",)]
    assert not await folder.save()
    # The user's events are gone; the others' are read again.
    assert folder.position == 2
    await folder.fold([buys(4, "ben", "c", day=1)])
    assert await folder.save()
    assert [user_id for (user_id,) in await run(dsn, "SELECT user_id FROM cache_sidecar.recommendation_users")] == ["ben"]


async def test_an_erasure_waits_for_what_is_being_saved(store: ModelStore, dsn: str) -> None:
    """An erasure that began after the save checked, and deleted before the save inserted, would delete nothing."""
    folder = Folder(store)
    await folder.start()
    await folder.fold([buys(1, "ann", "a")])
    async with await psycopg.AsyncConnection.connect(dsn) as blocker:
        # Holds the save between its check and the rows of users.
        await blocker.execute("LOCK TABLE cache_sidecar.recommendation_users IN SHARE MODE")
        saving = asyncio.create_task(folder.save())
        await until(lambda: waiting(dsn, 1))
        erasing = asyncio.create_task(run(dsn, ERASE_USER, ["ann"]))
        await until(lambda: waiting(dsn, 2))
    assert await saving
    assert await erasing == [("ann",)]
    assert await run(dsn, "SELECT FROM cache_sidecar.recommendation_users") == []


async def waiting(dsn: str, count: int) -> bool:
    ((found,),) = await run(
        dsn, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return found == count


async def published(dsn: str) -> dict[str, list[str]]:
    return dict(await run(dsn, "SELECT product_id, together FROM cache_sidecar.recommendation_rows"))


async def test_a_row_is_published_when_its_best_neighbours_change_and_not_too_often(store: ModelStore, dsn: str) -> None:
    folder = Folder(store)
    await folder.start()
    await folder.fold([buys(1, "ann", "a", "b")])
    await folder.save()
    assert await folder.publish() == 2
    assert await published(dsn) == {"a": ["b"], "b": ["a"]}
    assert await folder.publish(every=0) == 0

    await folder.fold([buys(2, "ben", "a", "c"), buys(3, "eve", "a", "c")])
    await folder.save()
    # c is new; a was published less than a minute ago.
    assert await folder.publish() == 1
    assert await published(dsn) == {"a": ["b"], "b": ["a"], "c": ["a"]}
    assert await folder.publish(limit=1, every=0) == 1
    assert (await published(dsn))["a"] == ["c", "b"]


async def test_a_row_whose_weights_alone_change_is_published_by_a_refresh(store: ModelStore, dsn: str) -> None:
    weights = "SELECT together_weights FROM cache_sidecar.recommendation_rows WHERE product_id = 'a'"
    folder = Folder(store)
    await folder.start()
    await folder.fold([buys(1, "ann", "a", "b")])
    await folder.save()
    await folder.publish()
    before = await run(dsn, weights)
    await folder.fold([buys(2, "ben", "a", "b")])
    await folder.save()
    assert await folder.publish(every=0) == 2
    assert await run(dsn, weights) == before
    after, looks = 0, 0
    while looks == 0 or after:
        after, looks = await folder.refresh(after, limit=1), looks + 1
    assert looks == 3
    assert await run(dsn, weights) > before


async def test_rows_stay_while_a_model_is_learned_anew_and_unknown_products_leave_after_it(store: ModelStore, dsn: str) -> None:
    await fold_all(store, [buys(1, "ann", "a", "b"), buys(2, "ann", "gone", "a")])
    await publish_all(store)
    await store.clear()
    assert (await published(dsn)).keys() == {"a", "b", "gone"}
    await fold_all(store, [buys(1, "ann", "a", "b")])
    await publish_all(store)
    assert await published(dsn) == {"a": ["b"], "b": ["a"]}


async def test_a_database_without_the_tables_is_reported(database: str) -> None:
    async with ModelStore.open(database) as store:
        await run(database, "DROP TABLE IF EXISTS cache_sidecar.recommendation_model")
        with pytest.raises(SettingsError, match="run `cache-sidecar migrate` first"):
            await store.totals()


async def test_a_server_that_is_gone_is_reported(dsn: str) -> None:
    with pytest.raises(ServerUnreachable, match="PostgreSQL cannot be used"):
        async with ModelStore.open(dsn.rpartition(":")[0] + ":1/shop"):
            pass
    async with ModelStore.open(dsn) as store:
        await run(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%recommendations'")
        with pytest.raises(ServerUnreachable, match="PostgreSQL cannot be used"):
            await store.totals()


async def changes(dsn: str) -> list[tuple[str, str, str]]:
    """Returns the outbox's changes, and empties it."""
    query = "WITH gone AS (DELETE FROM cache_sidecar.outbox RETURNING *) SELECT {} FROM gone ORDER BY dataset, id, version"
    return await run(dsn, query.format("dataset, id, kind"))


async def test_a_purchase_is_published_as_a_change_of_its_users_list_and_profile(store: ModelStore, dsn: str) -> None:
    folder = Folder(store)
    await folder.start()
    await folder.fold([buys(1, "ann", "a", "b"), buys(2, "", "c")])
    await folder.save()
    assert await changes(dsn) == [("recommendation", "ann", "created"), ("recommendation_profile", "ann", "created")]
    await folder.fold([buys(3, "ann", "a"), buys(4, "ben", "a")])
    await folder.save()
    assert await run(
        dsn,
        """SELECT version FROM cache_sidecar.recommendation_users UNION SELECT version FROM cache_sidecar.recommendation_profiles
           EXCEPT SELECT version FROM cache_sidecar.outbox""",
    ) == [], "each change has the version that its row has now"  # fmt: skip
    assert await changes(dsn) == [
        ("recommendation", "ann", "updated"),
        ("recommendation", "ben", "created"),
        ("recommendation_profile", "ann", "updated"),
        ("recommendation_profile", "ben", "created"),
    ]


async def test_a_user_who_is_erased_and_a_model_that_is_cleared_are_published(store: ModelStore, dsn: str) -> None:
    await fold_all(store, [buys(1, "ann", "a", "b"), buys(2, "ben", "a", "b")])
    await publish_all(store)
    await changes(dsn)
    await run(dsn, ERASE_USER.replace("%s", "'ann'"))
    assert await changes(dsn) == [("recommendation", "ann", "deleted"), ("recommendation_profile", "ann", "deleted")]
    await store.clear()
    await store.unpublish_unknown()
    assert await changes(dsn) == [
        ("recommendation", "ben", "deleted"),
        ("recommendation_item", "a", "deleted"),
        ("recommendation_item", "b", "deleted"),
        ("recommendation_profile", "ben", "deleted"),
    ]


async def test_the_most_popular_products_are_published_when_they_changed_and_not_too_often(store: ModelStore, dsn: str) -> None:
    popular = "SELECT product_ids, model_time > 0 FROM cache_sidecar.recommendation_popular"
    folder = Folder(store)
    await folder.start()
    await folder.publish_popular()
    assert await run(dsn, popular) == []
    await folder.fold([buys(1, "ann", "a", "b"), buys(2, "ben", "b")])
    await folder.save()
    await changes(dsn)
    await folder.publish_popular()
    assert await run(dsn, popular) == [(["b", "a"], True)]
    assert await changes(dsn) == [("recommendation_popular", "all", "created")]
    await folder.publish_popular(every=0)
    assert await changes(dsn) == []
    await folder.fold([buys(3, "eve", "a"), buys(4, "eve", "a")])
    await folder.save()
    await changes(dsn)
    await folder.publish_popular()
    assert await run(dsn, popular) == [(["b", "a"], True)], "published less than a minute ago"
    await folder.publish_popular(every=0)
    assert await run(dsn, popular) == [(["a", "b"], True)]
    assert await changes(dsn) == [("recommendation_popular", "all", "updated")]
    await store.clear()
    await store.unpublish_unknown()
    assert await run(dsn, popular) == []
