"""The outbox: every committed change, once, in an order that nobody sees change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from cache_sidecar.core.errors import ChangesExpired
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Outbox, RelayStore
from tests.support.databases import INSERT, UNLISTED, insert, open_database, remember, run
from tests.support.until import until


@pytest.fixture(autouse=True)
async def _unlisted(database: str) -> None:
    await run(database, UNLISTED)


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with open_database(database, size=4) as store:
        yield store


@pytest.fixture
def outbox(opened: Database) -> Outbox:
    return Outbox(opened)


@asynccontextmanager
async def transaction(database: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """A program that commits when it wants to."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        yield connection


async def ids(outbox: Outbox, after: int = 0) -> list[str]:
    return [change.id for change in await outbox.after(after, limit=1000)]


async def test_each_kind_of_change_is_told(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        await insert(other, "a")
        await other.execute("UPDATE cache_sidecar.products SET title = 'x' WHERE product_id = 'a'")
        await other.execute("UPDATE cache_sidecar.products SET product_id = 'b' WHERE product_id = 'a'")
        await other.execute("DELETE FROM cache_sidecar.products")
    changes = await outbox.after(0, limit=10)
    # A new id is two changes, in either order.
    kinds = [(change.id, change.kind) for change in changes]
    assert [kinds[:2], sorted(kinds[2:4]), kinds[4:]] == [
        [("a", "created"), ("a", "updated")],
        [("a", "deleted"), ("b", "created")],
        [("b", "deleted")],
    ]
    assert {change.dataset for change in changes} == {"product"}
    assert [change.position for change in changes] == sorted({change.position for change in changes})


async def test_a_row_s_version_is_that_of_its_newest_change(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        for id in "abc":
            await insert(other, id)
        await other.execute("UPDATE cache_sidecar.products SET title = 'x' WHERE product_id <> 'c'")
    rows = dict(await run(database, "SELECT product_id, version FROM cache_sidecar.products"))
    newest = {change.id: change.version for change in await outbox.after(0, limit=100)}
    assert newest == rows


async def test_what_is_rolled_back_is_not_told(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        await insert(other, "a")
        await other.rollback()
        await insert(other, "b")
    assert await ids(outbox) == ["b"]


async def test_pages_follow_each_other(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        for number in range(25):
            await insert(other, f"id{number:02}")
    position, found = 0, []
    while page := await outbox.after(position, limit=10):
        found += [change.id for change in page]
        position = page[-1].position
    assert found == [f"id{number:02}" for number in range(25)]


async def test_one_dataset_or_all(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        await insert(other, "a")
    assert await outbox.after(0, limit=10, dataset="product") == await outbox.after(0, limit=10)
    assert await outbox.after(0, limit=10, dataset="other") == []


# 10: transactions that commit in another order than they began


async def test_race_10_a_lower_version_that_commits_later_is_not_lost(outbox: Outbox, database: str) -> None:
    async with transaction(database) as slow, transaction(database) as fast:
        low = await insert(slow, "slow")
        high = await insert(fast, "fast")
        assert low < high
        await fast.commit()
        (seen,) = await outbox.after(0, limit=10)
        assert seen.id == "fast"
        await slow.commit()
    assert await ids(outbox, seen.position) == ["slow"]


async def test_race_10_a_position_never_changes(outbox: Outbox, database: str) -> None:
    async with transaction(database) as slow, transaction(database) as fast:
        await insert(slow, "slow")
        await insert(fast, "fast")
        await fast.commit()
        before = await outbox.after(0, limit=10)
        await slow.commit()
    assert (await outbox.after(0, limit=10))[:1] == before


async def test_race_10_who_gives_positions_is_alone(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other, transaction(database) as setup:
        await insert(setup, "a")
        await setup.commit()
        await other.execute("SELECT cache_sidecar.sequence_changes()")
        cursor = await other.execute("SELECT position FROM cache_sidecar.outbox")
        (given,) = await cursor.fetchone() or (0,)
        reading = asyncio.create_task(outbox.after(0, limit=10))
        await until(lambda: blocked(database))
        await insert(setup, "b")
        await setup.commit()
        await other.commit()
        first, second = await reading
    assert (first.id, first.position, second.id) == ("a", given, "b")
    assert second.position > given


async def test_race_10_the_changes_of_one_row_keep_the_order_of_their_versions(outbox: Outbox, database: str) -> None:
    async with transaction(database) as setup:
        await insert(setup, "a")

    async def update(title: str) -> None:
        for _ in range(10):
            await run(database, "UPDATE cache_sidecar.products SET title = %s WHERE product_id = 'a'", [title])

    async def watch() -> list[int]:
        seen: list[int] = []
        position = 0
        while len(seen) < 31:
            for change in await outbox.after(position, limit=5):
                seen.append(change.version)
                position = change.position
        return seen

    seen, *_ = await asyncio.gather(watch(), *(update(title) for title in "xyz"))
    assert seen == sorted(seen)


async def test_race_10_many_readers_at_once_see_everything_once(database: str) -> None:
    async def write(name: str) -> None:
        for number in range(20):
            await run(database, "SELECT 1")
            async with transaction(database) as other:
                await insert(other, f"{name}{number}")

    async def watch() -> list[tuple[int, str]]:
        async with open_database(database) as own:
            outbox, position, seen = Outbox(own), 0, []
            while len(seen) < 60:
                for change in await outbox.after(position, limit=7):
                    seen.append((change.position, change.id))
                    position = change.position
            return seen

    one, two, *_ = await asyncio.gather(watch(), watch(), *(write(name) for name in "abc"))
    assert one == two
    assert len({id for _, id in one}) == 60
    assert [position for position, _ in one] == sorted({position for position, _ in one})


async def blocked(database: str) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await run(database, query))


STOCK = "INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('a', 1)"
PRODUCT = INSERT.replace("%s, %s", "'a', 'x'")
COMES_BACK = {
    "product inserted": ("products", PRODUCT),
    "product upserted": ("products", f"{PRODUCT} ON CONFLICT (product_id) DO UPDATE SET title = 'x'"),
    "product renamed": ("products", "UPDATE cache_sidecar.products SET product_id = 'a' WHERE product_id = 'c'"),
    "stock inserted": ("inventory", STOCK),
    "stock upserted": ("inventory", f"{STOCK} ON CONFLICT (product_id, bucket) DO UPDATE SET available = 1"),
    "stock renamed": ("inventory", "UPDATE cache_sidecar.inventory SET product_id = 'a' WHERE product_id = 'c'"),
}


@pytest.mark.parametrize("how", COMES_BACK)
async def test_race_07_what_is_inserted_after_a_deletion_is_newer_than_it(database: str, how: str) -> None:
    """A deletion of many rows goes on while somebody inserts one of them again: its version must not be the older one."""
    table, statement = COMES_BACK[how]
    async with transaction(database) as setup:
        for id in ("a", "b", "c"):
            await insert(setup, id)
        await setup.execute("INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('a', 1), ('b', 1), ('c', 1)")
    # The deleting statement stops at its second row until the test lets it go on.
    await run(
        database,
        """CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF OLD.product_id = 'b' THEN PERFORM pg_advisory_xact_lock(4711); END IF; RETURN OLD; END $$""",
    )
    await run(
        database,
        f"CREATE TRIGGER wait BEFORE DELETE ON cache_sidecar.{table} FOR EACH ROW EXECUTE FUNCTION public.wait()",
    )
    async with transaction(database) as holder, transaction(database) as deleter, transaction(database) as inserter:
        await holder.execute("SELECT pg_advisory_xact_lock(4711)")
        deletion = f"DELETE FROM cache_sidecar.{table} WHERE product_id IN ('a', 'b')"
        deleting = asyncio.create_task(deleter.execute(deletion))  # type: ignore[call-overload]
        await until(lambda: blocked(database))
        inserting = asyncio.create_task(inserter.execute(statement))  # type: ignore[call-overload]
        await until(lambda: two_blocked(database))
        await holder.commit()
        await deleting
        await deleter.commit()
        await inserting
        await inserter.commit()
    dataset = {"products": "product", "inventory": "inventory"}[table]
    query = f"SELECT version FROM cache_sidecar.{table} WHERE product_id = 'a'"
    ((version,),) = await run(database, query)
    query = "SELECT max(version) FROM cache_sidecar.outbox WHERE dataset = %s AND id = 'a' AND kind = 'deleted'"
    ((deleted,),) = await run(database, query, [dataset])
    assert version > deleted


async def two_blocked(database: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return (await run(database, query))[0][0] >= 2


# Resuming


async def test_the_position_of_a_version_is_where_it_was_told(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        versions = [await insert(other, id) for id in "abc"]
    assert await ids(outbox, await outbox.position(versions[0])) == ["b", "c"]
    assert await ids(outbox, await outbox.position(versions[2])) == []


async def test_the_present_position_is_behind_everything_committed(outbox: Outbox, database: str) -> None:
    assert await outbox.position(0) == 0
    async with transaction(database) as other:
        await insert(other, "a")
    now = await outbox.position(0)
    async with transaction(database) as other:
        await insert(other, "b")
    assert await ids(outbox, now) == ["b"]


async def test_a_version_that_never_was_or_is_not_committed_has_no_position(outbox: Outbox, database: str) -> None:
    async with transaction(database) as other:
        version = await insert(other, "a")
        with pytest.raises(ChangesExpired):
            await outbox.position(version)
        await other.rollback()
    with pytest.raises(ChangesExpired):
        await outbox.position(version)


async def test_a_version_far_behind_in_a_large_transaction_has_a_position(outbox: Outbox, database: str) -> None:
    query = """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
               SELECT 'id' || n, 'Sofa', 1, 'EUR' FROM generate_series(1, 10500) AS n"""
    await run(database, query)
    ((newest,),) = await run(database, "SELECT max(version) FROM cache_sidecar.products")
    assert await ids(outbox, await outbox.position(newest)) == []


# Cleaning up


async def keep(database: Database, *, changes: float = 3600.0, requests: float = 3600.0) -> None:
    await RelayStore(database).prune(changes_after=changes, requests_after=requests)


async def test_what_every_region_was_told_of_and_is_old_is_pruned(outbox: Outbox, opened: Database, database: str) -> None:
    async with transaction(database) as other:
        versions = [await insert(other, id) for id in "abcd"]
    await run(database, "UPDATE cache_sidecar.outbox SET change_time = change_time - interval '1 hour' WHERE id <> 'c'")
    changes = await outbox.after(0, limit=10)
    await keep(opened, changes=60)
    assert await ids(outbox) == list("abcd")  # no relay has told anybody
    await remember(database, "eu", changes[-1].position)
    await remember(database, "us", changes[1].position)
    await keep(opened, changes=60)
    assert await ids(outbox) == ["c", "d"]
    with pytest.raises(ChangesExpired):
        await outbox.position(versions[0])
    assert await outbox.position(0) == changes[-1].position


async def test_nothing_behind_a_change_that_is_kept_is_pruned(outbox: Outbox, opened: Database, database: str) -> None:
    """A long transaction's changes are older than their place: who resumes from the one before them must not miss them."""
    async with transaction(database) as slow:
        await insert(slow, "slow")
        version = await insert_alone(database, "fast")
        assert await ids(outbox) == ["fast"]
        await slow.commit()
    changes = await outbox.after(0, limit=10)
    assert [change.id for change in changes] == ["fast", "slow"]
    await run(database, "UPDATE cache_sidecar.outbox SET change_time = change_time - interval '1 hour' WHERE id = 'slow'")
    await remember(database, "eu", changes[-1].position)
    await keep(opened, changes=60)
    assert await ids(outbox, await outbox.position(version)) == ["slow"]


async def insert_alone(database: str, id: str) -> int:
    async with transaction(database) as other:
        return await insert(other, id)


async def test_a_position_is_never_given_twice(outbox: Outbox, opened: Database, database: str) -> None:
    async with transaction(database) as other:
        await insert(other, "a")
    (first,) = await outbox.after(0, limit=10)
    await remember(database, "eu", first.position)
    await run(database, "UPDATE cache_sidecar.outbox SET change_time = change_time - interval '1 hour'")
    await keep(opened, changes=60)
    assert await ids(outbox) == []
    async with transaction(database) as other:
        await insert(other, "b")
    (second,) = await outbox.after(first.position, limit=10)
    assert second.position > first.position


async def test_first_replies_are_pruned_by_age(opened: Database, database: str) -> None:
    columns = "(scope, request_id, method, fingerprint, reply, ids, versions, create_time)"
    await run(
        database,
        f"""INSERT INTO cache_sidecar.requests {columns}
            SELECT '', gen_random_uuid(), 'm', '', '', '{{}}', '{{}}', now() - make_interval(hours => n)
            FROM generate_series(0, 3) AS n""",
    )
    await keep(opened, requests=3600 * 1.5)
    assert await run(database, "SELECT count(*) FROM cache_sidecar.requests") == [(2,)]


async def test_what_a_relay_remembers_never_goes_back(opened: Database, database: str) -> None:
    store = RelayStore(opened)
    await remember(database, "eu", 7, settled=5)
    await remember(database, "eu", 6, settled=4)
    assert await store.progress("eu") == (7, 5)
    assert await store.progress("us") == (0, 0)
