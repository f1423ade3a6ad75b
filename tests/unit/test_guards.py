"""The list of guards against races fits the code, the tests and the guide. That each is needed, `tests.guards` tries."""

import pytest

from tests.guards import GUARDS, PAIRS, ROOT, Guard

RACES = 25


def test_every_race_has_a_guard_in_order() -> None:
    races = [guard.race for guard in GUARDS]
    assert sorted(set(races)) == list(range(1, RACES + 1))
    assert races == sorted(races)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.race}-{guard.file}")
def test_a_guard_is_where_the_list_says_and_its_test_is_named_by_the_race(guard: Guard) -> None:
    assert (ROOT / "cache_sidecar" / guard.file).read_text().count(guard.text) == 1
    module, _, name = guard.test.partition("::")
    assert name.startswith(f"test_race_{guard.race:02}_")
    assert f"async def {name}(" in (ROOT / "tests/integration" / module).read_text()


@pytest.mark.parametrize("guard", PAIRS, ids=lambda guard: guard.says.replace(" ", "_"))
def test_a_guard_of_two_calls_is_where_the_list_says(guard: Guard) -> None:
    assert (ROOT / "cache_sidecar" / guard.file).read_text().count(guard.text) == 1
    module, _, name = guard.test.partition("::")
    assert f"async def {name.partition('[')[0]}(" in (ROOT / "tests/integration" / module).read_text()


def test_the_guide_s_table_is_this_list() -> None:
    guide = (ROOT / "tests/README.md").read_text().splitlines()
    start = guide.index("| race | guard | test, in `integration` |") + 2
    assert guide[start : start + len(GUARDS) + 1] == [*(guard.row() for guard in GUARDS), ""]
