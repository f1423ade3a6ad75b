"""Batches of lists in PostgreSQL: each list is stored once, and a batch is served whole or not at all."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.core.errors import BatchCommitted, InvalidRequest, ListsMissing
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.database import Database
from cache_sidecar.store.provided import ABANDONED, Key, Progress, ProvidedList, ProvidedStore, ServedList, receive
from cache_sidecar.store.recommendation import ERASE_USER
from tests.support.databases import SIDECAR, as_role, open_database, run
from tests.support.until import until

MODEL = "RECOMMENDED_FOR_YOU"


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    """With the rights of a sidecar."""
    async with open_database(as_role(SIDECAR, database), size=4) as opened:
        yield opened


@pytest.fixture
def store(opened: Database) -> ProvidedStore:
    return ProvidedStore(opened)


def for_user(user: str, *product_ids: str) -> ProvidedList:
    return ProvidedList(Key(user, "", MODEL), product_ids, [1.0] * len(product_ids))


def for_users(count: int, product_id: str) -> list[ProvidedList]:
    return [for_user(f"user {number}", product_id) for number in range(count)]


async def served(store: ProvidedStore, user: str) -> list[str]:
    found = await store.find([key := Key(user, "", MODEL)])
    return list(found[key].product_ids) if found else []


async def test_a_batch_is_served_once_it_is_committed_and_replaces_the_one_before(store: ProvidedStore) -> None:
    assert await store.receive("monday", [for_user("ann", "sofa", "lamp")], first=0) == Progress(1, is_committed=False, added=1)
    assert await served(store, "ann") == []
    assert await store.receive("monday", [for_user("bob", "rug")], first=1, commit=True) == Progress(
        2, is_committed=True, added=1
    )
    assert await served(store, "ann") == ["sofa", "lamp"]
    await store.receive("tuesday", [for_user("ann", "desk")], first=0)
    assert (await served(store, "ann"), await served(store, "bob")) == (["sofa", "lamp"], ["rug"])
    await store.receive("tuesday", [], first=1, commit=True)
    assert (await served(store, "ann"), await served(store, "bob")) == (["desk"], [])


async def test_a_list_is_found_with_its_scores_and_its_batch(store: ProvidedStore) -> None:
    key = Key("", 'sofa \\ "日本"', "FREQUENTLY_BOUGHT_TOGETHER")
    await store.receive("b", [ProvidedList(key, ["lamp 'x'", "{rug}"], [0.5, -0.25])], first=0, commit=True)
    others = [key._replace(model=MODEL), Key(key.product_id, "", key.model)]
    assert await store.find([*others, key]) == {key: ServedList(["lamp 'x'", "{rug}"], [0.5, -0.25], "b")}
    assert await store.find(others) == {}


async def test_scores_that_take_more_than_four_bytes_are_brought_into_range(store: ProvidedStore) -> None:
    key = Key("ann", "", MODEL)
    await store.receive("b", [ProvidedList(key, ["a", "b", "c", "d"], [1e308, -1e308, 5e-324, 0.1])], first=0, commit=True)
    assert (await store.find([key]))[key].scores == pytest.approx([3e38, -3e38, 0.0, 0.1])


async def test_lists_that_are_sent_again_are_stored_once(store: ProvidedStore, database: str) -> None:
    lists = for_users(5, "sofa")
    assert (await store.receive("b", lists[:3], first=0)).next_list == 3
    assert (await store.receive("b", lists[:3], first=0)).next_list == 3
    assert (await store.receive("b", [], first=0)).next_list == 3
    assert (await store.receive("b", lists[1:], first=1)).next_list == 5
    assert await run(database, "SELECT count(*) FROM cache_sidecar.provided_recommendations") == [(5,)]


async def test_of_two_senders_of_one_batch_the_second_waits_for_what_the_first_stores(
    store: ProvidedStore, database: str
) -> None:
    lists = for_users(20, "sofa")
    await store.receive("b", [], first=0)

    async def is_waiting() -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(await run(database, query))

    async with await Connection.connect(database) as connection:
        async with connection.begin():
            await receive(connection, "b", lists[:10], first=0)
            second = asyncio.create_task(store.receive("b", lists[5:], first=5))
            await until(lambda: second.done() or is_waiting())
            assert not second.done()
        assert await second == Progress(20, is_committed=False, added=10)
    assert await run(database, "SELECT count(*) FROM cache_sidecar.provided_recommendations") == [(20,)]


async def test_of_several_lists_for_one_user_the_last_one_counts(store: ProvidedStore) -> None:
    await store.receive("b", [for_user("ann", "sofa"), for_user("bob", "rug"), for_user("ann", "lamp")], first=0)
    await store.receive("b", [for_user("bob", "desk")], first=3, commit=True)
    assert (await served(store, "ann"), await served(store, "bob")) == (["lamp"], ["desk"])


async def test_lists_that_were_replaced_within_the_batch_are_not_counted_as_deleted(store: ProvidedStore) -> None:
    await store.receive("b", [for_user("ann", "sofa"), for_user("bob", "rug"), for_user("ann", "lamp")], first=0)
    await store.receive("b", [for_user("bob", "desk")], first=3, commit=True)
    assert await store.delete_batch("b") == 2


async def test_lists_that_are_missing_keep_a_batch_from_being_committed(store: ProvidedStore) -> None:
    await store.receive("b", for_users(3, "sofa"), first=0)
    with pytest.raises(ListsMissing, match="go on with list 3"):
        await store.receive("b", [], first=4, commit=True)
    assert await served(store, "user 0") == []


async def test_a_batch_without_lists_is_not_committed(store: ProvidedStore, database: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.receive("b", [], first=0, commit=True)
    assert await run(database, "SELECT count(*) FROM cache_sidecar.recommendation_batches") == [(0,)]


async def test_a_commit_may_be_repeated_but_what_is_served_does_not_change(store: ProvidedStore) -> None:
    lists = for_users(2, "sofa")
    for added in (2, 0):
        assert await store.receive("b", lists, first=0, commit=True) == Progress(2, is_committed=True, added=added)
    with pytest.raises(BatchCommitted, match="is complete, and served"):
        await store.receive("b", for_users(1, "lamp"), first=2, commit=True)
    await store.receive("next", lists, first=0, commit=True)
    with pytest.raises(BatchCommitted, match="was replaced"):
        await store.receive("b", lists, first=0, commit=True)
    assert await served(store, "user 1") == ["sofa"]


async def test_two_batches_that_are_committed_at_once_are_served_one_after_the_other(
    store: ProvidedStore, database: str
) -> None:
    names = [f"batch {number}" for number in range(4)]
    await asyncio.gather(*(store.receive(name, for_users(1, name), first=0, commit=True) for name in names))
    query = "SELECT state, count(*) FROM cache_sidecar.recommendation_batches GROUP BY state ORDER BY state"
    assert await run(database, query) == [("replaced", 3), ("served", 1)]


async def test_what_is_not_served_any_more_is_deleted(store: ProvidedStore, database: str) -> None:
    await store.receive("first", for_users(6000, "sofa"), first=0, commit=True)
    assert not await store.sweep()
    await store.receive("second", for_users(10, "lamp"), first=0, commit=True)
    await store.receive("open", for_users(10, "lamp"), first=0)
    assert [await store.sweep() for _ in range(3)] == [True, True, False]
    assert await run(database, "SELECT count(*) FROM cache_sidecar.provided_recommendations") == [(20,)]
    assert await served(store, "user 1") == ["lamp"]
    age = f"UPDATE cache_sidecar.recommendation_batches SET update_time = now() - interval '{ABANDONED} days 1 minute'"
    await run(database, age)
    assert [await store.sweep() for _ in range(2)] == [True, False]
    assert await run(database, "SELECT batch_id FROM cache_sidecar.recommendation_batches") == [("second",)]
    # Its name may be used again.
    assert await store.receive("first", for_users(1, "rug"), first=0, commit=True) == Progress(1, is_committed=True, added=1)


async def test_lists_are_deleted_by_user_by_product_and_by_batch(store: ProvidedStore, database: str) -> None:
    page = ProvidedList(Key("", "sofa", MODEL), ["lamp"], [1.0])
    await store.receive("open", [for_user("ann", "sofa")], first=0)
    await store.receive("served", [for_user("ann", "sofa"), for_user("bob", "sofa"), page], first=0, commit=True)
    assert await store.delete_of_user("ann") == 2
    assert await store.delete_of_user("ann") == 0
    assert (await served(store, "ann"), await served(store, "bob")) == ([], ["sofa"])
    assert await store.delete_of_product("sofa") == 1
    assert await store.find([page.key]) == {}
    assert await store.delete_batch("served") == 1, "what is left of it"
    assert await store.delete_batch("served") == 0
    assert await served(store, "bob") == []
    while await store.sweep():
        pass
    assert await run(database, "SELECT batch_id FROM cache_sidecar.recommendation_batches") == [("open",)]


async def outbox(database: str) -> list[tuple[object, ...]]:
    return await run(database, "SELECT dataset, id, kind FROM cache_sidecar.outbox ORDER BY version")


async def test_caches_are_told_of_a_user_whose_lists_are_deleted(store: ProvidedStore, database: str) -> None:
    await store.receive("b", [for_user("ann", "sofa"), for_user("bob", "sofa")], first=0, commit=True)
    await run(database, "INSERT INTO cache_sidecar.recommendation_users (user_id, history) VALUES ('ann', '{}')")
    await run(database, "DELETE FROM cache_sidecar.outbox")
    assert [await store.delete_of_user(user) for user in ("ann", "bob", "nobody")] == [1, 1, 0]
    assert await outbox(database) == [
        ("recommendation", "ann", "updated"),
        ("recommendation_profile", "ann", "updated"),
        ("recommendation", "bob", "deleted"),
        # A batch that was replaced may have had a list.
        ("recommendation", "nobody", "deleted"),
    ]


async def test_erasing_a_user_erases_the_lists(store: ProvidedStore, opened: Database, database: str) -> None:
    await store.receive("b", [for_user(user, "sofa") for user in ("ann", "bob", "eve")], first=0, commit=True)
    await run(database, "INSERT INTO cache_sidecar.recommendation_users (user_id, history) VALUES ('ann', '{}')")
    for user, found in (("ann", [("ann",)]), ("bob", [("bob",)]), ("bob", []), ("nobody", [])):
        assert [tuple(row) for row in await opened.fetch(ERASE_USER, [user])] == found
    assert await run(database, "SELECT user_id FROM cache_sidecar.provided_recommendations") == [("eve",)]
