"""Which requests were granted something: certain when it says no."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from cache_sidecar.inventory.granted_requests import GrantedRequests
from cache_sidecar.store import requests
from cache_sidecar.store.reservation import Grant
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.until import until

MAX = 5


class Table:
    """The grants in PostgreSQL."""

    def __init__(self) -> None:
        self.grants: list[Grant] = []
        self.asked: list[dict[str, int]] = []
        self.since: datetime | None = None
        self.slow = False

    def add(self, id: str, grant_version: int) -> UUID:
        """GrantedRequests something of a row to a new request."""
        request_id = uuid4()
        self.grants.append(Grant(id, grant_version, request_id))
        return request_id

    async def load(self, after: Mapping[str, int], since: datetime) -> Sequence[Grant]:
        """As ReservationStore.grants."""
        self.asked.append(dict(after))
        self.since = since
        found = list(self.grants)
        await asyncio.sleep(0.02 if self.slow else 0)
        return [grant for grant in found if grant.grant_version > after.get(grant.id, 1 << 62)][: MAX + 1]


@pytest.fixture
def table() -> Table:
    return Table()


def grants_of(table: Table, **more: int) -> GrantedRequests:
    return GrantedRequests(table.load, max_grants=MAX, clock=ManualClock(1_000_000.0), **more)


async def test_a_request_is_found_under_each_row_it_got_something_of(table: Table) -> None:
    grants = grants_of(table)
    first, second = table.add("a", 1), table.add("b", 2)
    assert await grants.may_contain([("a", 1)], first)
    assert not await grants.may_contain([("a", 1)], second)
    assert await grants.may_contain([("a", 1), ("b", 2)], second)
    assert not await grants.may_contain([("a", 1), ("b", 2)], uuid4())
    assert table.asked == [{"a": 0}, {"b": 0}]
    assert table.since == datetime.fromtimestamp(1_000_000.0 - requests.KEPT, UTC)
    await grants.close()


async def test_only_what_is_new_is_read_and_nothing_while_nothing_is(table: Table) -> None:
    grants = grants_of(table)
    table.add("a", 1)
    for _ in range(3):
        assert not await grants.may_contain([("a", 1)], uuid4())
    later = table.add("a", 5)
    assert await grants.may_contain([("a", 5)], later)
    assert await grants.may_contain([("a", 3)], later)
    assert table.asked == [{"a": 0}, {"a": 1}]


async def test_a_row_that_never_granted_anything_is_not_read(table: Table) -> None:
    assert not await grants_of(table).may_contain([("a", 0)], uuid4())
    assert table.asked == []


async def test_a_grant_too_old_to_be_read_is_not_asked_for_again(table: Table) -> None:
    grants = grants_of(table)
    for _ in range(2):
        assert not await grants.may_contain([("a", 7)], uuid4())
    assert table.asked == [{"a": 0}]


async def test_callers_of_one_moment_share_a_read(table: Table) -> None:
    grants = grants_of(table)
    requests = [table.add("a", number) for number in range(1, MAX)]
    found = await asyncio.gather(*(grants.may_contain([("a", 4)], request) for request in [*requests, uuid4()]))
    assert found == [True] * 4 + [False]
    assert len(table.asked) == 1


async def test_a_read_that_began_earlier_is_not_trusted_with_a_later_grant(table: Table) -> None:
    grants = grants_of(table)
    table.add("a", 1)
    table.slow = True
    early = asyncio.get_running_loop().create_task(grants.may_contain([("a", 1)], uuid4()))
    await until(lambda: table.asked)
    later = table.add("a", 2)
    assert await grants.may_contain([("a", 2)], later)
    assert not await early
    assert len(table.asked) == 2


async def test_with_too_many_to_tell_everything_may_be_included(table: Table) -> None:
    grants = grants_of(table)
    for number in range(1, MAX + 2):
        table.add("a", number)
    assert await grants.may_contain([("a", MAX + 1)], uuid4())
    assert await grants.may_contain([("a", MAX + 1)], uuid4())
    assert len(table.asked) == 2


async def test_rows_asked_for_longest_ago_are_forgotten_and_read_again(table: Table) -> None:
    grants = grants_of(table, max_requests=2)
    requests = {id: table.add(id, 1) for id in "abc"}
    for id in "abc":
        assert await grants.may_contain([(id, 1)], requests[id])
    assert await grants.may_contain([("c", 1)], requests["c"])
    assert [list(asked) for asked in table.asked] == [["a"], ["b"], ["c"]]
    assert await grants.may_contain([("a", 1)], requests["a"])
    assert [list(asked) for asked in table.asked] == [["a"], ["b"], ["c"], ["a"]]


async def test_what_was_forgotten_in_the_meantime_may_be_included(table: Table) -> None:
    grants = grants_of(table, max_requests=1)
    for id in "ab":
        table.add(id, 1)
    # Both are read by one query, so both stay; the next one pushes them out.
    assert not await grants.may_contain([("a", 1), ("b", 1)], uuid4())
    inside.known_of(grants).pop("a")
    inside.mark_read(grants, "a", 1)
    assert "a" not in inside.known_of(grants)
    assert not await grants.may_contain([("b", 1)], uuid4())


@pytest.mark.parametrize("bounds", [{"max_grants": 0}, {"max_grants": 1, "max_requests": 0}])
def test_bounds_have_to_make_sense(table: Table, bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GrantedRequests(table.load, clock=ManualClock(), **bounds)
