"""The Redis functions that read and put off, and that fill in by a lease; on a cluster and on a single server."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.tiers.ports import Expiry, Leased, Record, Times
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.support import inside
from tests.support.dataset_case import Direct, OpenL2

NOW, TTL, WINDOW = 1_700_000_000.0, 1800.0, 300.0
IDS = [f"id-{number}" for number in range(20)]


@pytest.fixture
async def either(open_either: OpenL2) -> AsyncIterator[RedisL2]:
    async with open_either() as l2:
        yield l2


def times(now: float) -> Times:
    return Times(now, now - TTL, now - WINDOW, TTL + WINDOW)


def record(version: int = 7, *, used: float = NOW, end: float | None = NOW + 10**6, stored: float | None = None) -> Record:
    return Record(version, NOW, b"value", Expiry(used, end, used if stored is None else stored))


async def slide(l2: RedisL2, now: float, *ids: str) -> Leased:
    return await l2.touch("session", ids or ("id",), times(now))


async def fill(l2: RedisL2, wanted: Record, lease: bytes | None = None) -> None:
    await l2.fill("session", {"id": wanted}, {} if lease is None else {"id": lease}, ttl=TTL + WINDOW)


async def held(l2: RedisL2) -> Record | None:
    return (await l2.read("session", ["id"])).get("id")


async def expiry(l2: RedisL2, now: float) -> Expiry:
    found = (await slide(l2, now)).records["id"].expiry
    assert found is not None
    return found


async def test_a_read_puts_off_the_expiry(either: RedisL2) -> None:
    await either.put_if_newer("session", {"id": record()}, ttl=TTL)
    assert (await expiry(either, NOW + 100)).used == NOW + 100
    assert (await held(either)) == record(used=NOW + 100, stored=NOW)
    assert (await expiry(either, NOW + 96)).used == NOW + 100, "and never back"


async def test_many_are_read_at_once(either: RedisL2) -> None:
    await either.put_if_newer("session", {id: record(number + 1) for number, id in enumerate(IDS[:10])}, ttl=TTL)
    found = await slide(either, NOW + 1, *IDS)
    assert {id: one.version for id, one in found.records.items()} == {id: number + 1 for number, id in enumerate(IDS[:10])}
    assert set(found.leases) == set(IDS[10:])


async def test_it_is_not_put_off_beyond_the_end(either: RedisL2) -> None:
    await either.put_if_newer("session", {"id": record(end=NOW + TTL + 60)}, ttl=TTL)
    assert (await expiry(either, NOW + 30)).until(TTL) == NOW + 30 + TTL
    assert (await expiry(either, NOW + 90)).until(TTL) == NOW + TTL + 60
    await expiry(either, NOW + TTL)
    assert (await expiry(either, NOW + TTL + 60)).used == NOW + TTL, "from its end on it is not used"


@pytest.mark.parametrize("end", [NOW + TTL, None])
async def test_what_is_over_is_not_put_off(either: RedisL2, end: float | None) -> None:
    await either.put_if_newer("session", {"id": record(end=end)}, ttl=TTL)
    for now in (NOW + TTL, NOW + TTL + 1):
        assert (await expiry(either, now)).used == NOW


async def test_how_long_after_its_use_it_is_over_is_the_reader_s_word(either: RedisL2) -> None:
    """A reader whose policy gives it less time does not use it, one that gives it more does."""
    for ttl, expected in ((50.0, NOW), (60.0, NOW), (61.0, NOW + 60)):
        await either.put_if_newer("session", {"id": record()}, ttl=TTL)
        found = await either.touch("session", ["id"], Times(NOW + 60, NOW + 60 - ttl, NOW - WINDOW, ttl))
        assert found.records["id"].expiry == Expiry(expected, NOW + 10**6, NOW)
        assert await held(either) == record(used=expected, stored=NOW)
        await either.drop("session", ["id"])


async def test_one_reader_per_window_sees_that_the_stored_use_is_overdue(either: RedisL2) -> None:
    await either.put_if_newer("session", {"id": record()}, ttl=TTL)
    assert (await expiry(either, NOW + WINDOW - 1)).stored == NOW
    assert (await expiry(either, NOW + WINDOW)).stored == NOW, "this one has to tell PostgreSQL"
    assert (await expiry(either, NOW + WINDOW)).stored == NOW + WINDOW
    assert (await expiry(either, NOW + 2 * WINDOW - 1)).stored == NOW + WINDOW


async def test_where_there_is_nothing_there_is_one_lease_for_everybody(either: RedisL2) -> None:
    lease = (await slide(either, NOW)).leases["id"]
    assert (await slide(either, NOW)).leases["id"] == lease
    assert await held(either) is None
    await fill(either, record(), lease)
    assert await held(either) == record()
    await fill(either, record(8), lease)
    assert await held(either) == record(8), "newer content needs no lease"


@pytest.mark.parametrize("lease", [None, b"another"])
async def test_nothing_is_filled_in_without_the_lease(either: RedisL2, lease: bytes | None) -> None:
    await fill(either, record(), lease)
    assert await held(either) is None, "there is nothing"
    await slide(either, NOW)
    await fill(either, record(), lease)
    assert await held(either) is None, "there is the lease of another"


async def test_whatever_happens_takes_the_lease_away(either: RedisL2) -> None:
    lease = (await slide(either, NOW)).leases["id"]
    await either.put_if_newer("session", {"id": Record(9, NOW, None)}, ttl=TTL)
    await fill(either, record(8), lease)
    assert await held(either) == Record(9, NOW, None)
    await either.drop("session", ["id"])
    await fill(either, record(8), lease)
    assert await held(either) is None
    later = (await slide(either, NOW)).leases["id"]
    assert later != lease
    await fill(either, record(8), lease)
    assert await held(either) is None
    await either.put_if_newer("session", {"id": 9}, ttl=TTL)
    await fill(either, record(8), later)
    assert await held(either) is None
    await fill(either, record(9), later)
    assert await held(either) == record(9)


async def test_of_one_version_the_later_use_counts(either: RedisL2) -> None:
    await either.put_if_newer("session", {"id": record(used=NOW + 900, stored=NOW + 900)}, ttl=TTL)
    await fill(either, record(used=NOW + 1000, stored=NOW + 300))
    assert await held(either) == record(used=NOW + 1000, stored=NOW + 900)
    await fill(either, record(used=NOW + 500, stored=NOW + 950))
    assert await held(either) == record(used=NOW + 1000, stored=NOW + 950)


@pytest.mark.parametrize("end", [NOW + 10**6, None])
async def test_what_postgresql_says_goes_on_is_filled_in_over_what_looks_over(either: RedisL2, end: float | None) -> None:
    await either.put_if_newer("session", {"id": record(end=end)}, ttl=TTL)
    await fill(either, record(used=NOW + TTL, end=end))
    assert await held(either) == record(used=NOW + TTL, end=end)


async def test_a_use_is_kept_with_the_history_of_the_node_that_counted_it(either: RedisL2) -> None:
    await either.put_if_newer("session", {"id": record()}, ttl=TTL)
    for now, history, expected in ((1, "aaaa0001", "aaaa0001"), (2, "bbbb0002", "bbbb0002"), (TTL + 2, "cccc0003", "bbbb0002")):
        found = await either.touch("session", ["id"], times(NOW + now), {"id": history})
        assert found.records["id"].expiry is not None
        kept = await held(either)
        assert kept is not None
        assert kept.expiry is not None
        assert kept.expiry.history == expected, "what is over is not used"
    later = Record(7, NOW, b"value", Expiry(NOW + 1, NOW + 10**6, NOW + 1, "dddd0004"))
    await fill(either, later)
    kept = await held(either)
    assert kept is not None
    assert kept.expiry == Expiry(NOW + 2, NOW + 10**6, NOW + 1, "bbbb0002"), "of the later use"
    await fill(either, later._replace(expiry=Expiry(NOW + 9, NOW + 10**6, NOW, "dddd0004")))
    kept = await held(either)
    assert kept is not None
    assert kept.expiry == Expiry(NOW + 9, NOW + 10**6, NOW + 1, "dddd0004")


async def test_records_that_don_t_slide_are_read_as_they_are(either: RedisL2) -> None:
    for found in (Record(5, NOW, b"plain"), Record(6, NOW, None)):
        await either.put_if_newer("session", {"id": found}, ttl=TTL)
        assert (await slide(either, NOW + 100)).records == {"id": found}
    await either.put_if_newer("session", {"id": 7}, ttl=TTL)
    assert await slide(either, NOW + 100) == Leased({}, {})


@pytest.mark.parametrize(
    "command",
    [("LPUSH", "x"), ("HSET", "f", "v"), ("SADD", "x"), ("SET", b"foreign"), ("SET", b""), ("SET", b"x" * 18 + b"f" * 99)],
)
async def test_what_is_no_record_is_a_miss_counted_once_and_replaced(either: RedisL2, command: tuple[str, ...]) -> None:
    key = inside.names_of(either).key("session", "id")
    await Direct(either).execute_command(command[0], key, *command[1:])
    found = await slide(either, NOW)
    assert (found.records, set(found.leases)) == ({}, {"id"})
    assert (await slide(either, NOW)).leases == found.leases, "there is a lease in its place"
    assert either.unreadable["session"] == 1
    await fill(either, record(), found.leases["id"])
    assert await held(either) == record()
    assert either.unreadable["session"] == 1
