"""Lists from the batch that is served: which one answers a request."""

from collections.abc import AsyncIterator, Sequence

import pytest

from cache_sidecar.recommendations.generator import Kind, ListRequest, Place
from cache_sidecar.recommendations.provided import CONTEXT, ProvidedGenerator
from cache_sidecar.recommendations.rank import Reason
from cache_sidecar.store.provided import Key, ProvidedList, ProvidedStore
from cache_sidecar.tiers.ports import Source
from tests.support.databases import open_database

FOR_YOU, TOGETHER = Kind.RECOMMENDED_FOR_YOU, Kind.FREQUENTLY_BOUGHT_TOGETHER


@pytest.fixture
async def store(database: str) -> AsyncIterator[ProvidedStore]:
    async with open_database(database) as opened:
        store = ProvidedStore(opened)
        lists = [
            (Key("ann", "", FOR_YOU), ["a1", "a2"]),
            (Key("ann", "", TOGETHER), ["t1"]),
            (Key("", "sofa", TOGETHER), ["s1", "both", "s3"]),
            (Key("", "rug", TOGETHER), ["r1", "s3", "both", "r4"]),
        ]
        given = [ProvidedList(key, ids, [10.0 - place for place in range(len(ids))]) for key, ids in lists]
        await store.receive("monday", given, first=0, commit=True)
        yield store


async def generate(
    store: ProvidedStore, user: str, kind: Kind, *, page: Sequence[str] = (), cart: Sequence[str] = (), size: int = 10
) -> list[str] | None:
    request = ListRequest(user_id=user, place=Place.HOME_PAGE, kind=kind, page=page, cart=cart, size=size)
    found = await ProvidedGenerator(store).generate(request)
    return None if found is None else [result.product_id for result in found.results]


async def test_a_user_s_list_is_found_by_its_model(store: ProvidedStore) -> None:
    assert await generate(store, "ann", FOR_YOU) == ["a1", "a2"]
    assert await generate(store, "ann", FOR_YOU, size=1) == ["a1"]
    assert await generate(store, "ann", TOGETHER) == ["t1"]
    assert await generate(store, "ann", Kind.BEST_SELLERS) is None


@pytest.mark.parametrize("user", ["", "bob"])
async def test_whoever_has_no_list_is_left_to_the_next_generator(store: ProvidedStore, user: str) -> None:
    assert await generate(store, user, FOR_YOU) is None


async def test_lists_of_the_page_and_the_cart_come_before_the_user_s(store: ProvidedStore) -> None:
    assert await generate(store, "ann", TOGETHER, page=["sofa"]) == ["s1", "both", "s3"]
    assert await generate(store, "", TOGETHER, page=["sofa"]) == ["s1", "both", "s3"]
    assert await generate(store, "ann", TOGETHER, page=["desk"]) == ["t1"]
    assert await generate(store, "ann", FOR_YOU, cart=["sofa"]) == ["a1", "a2"]


async def test_of_several_lists_the_best_products_come_first(store: ProvidedStore) -> None:
    assert await generate(store, "", TOGETHER, page=["sofa"], cart=["rug", "desk"]) == ["s1", "r1", "both", "s3", "r4"]
    assert await generate(store, "", TOGETHER, cart=["rug", "sofa"]) == ["r1", "s1", "s3", "both", "r4"]
    others = [f"product {number}" for number in range(CONTEXT)]
    assert await generate(store, "ann", TOGETHER, cart=[*others, "sofa"]) == ["t1"]


async def test_a_list_says_where_it_comes_from_and_its_scores_do_not_grow(store: ProvidedStore) -> None:
    key = Key("eve", "", FOR_YOU)
    await store.receive("tuesday", [ProvidedList(key, ["x", "y", "z"], [0.5, 2.0, 0.25])], first=0, commit=True)
    request = ListRequest(user_id="eve", place=Place.HOME_PAGE, kind=FOR_YOU, size=10)
    found = await ProvidedGenerator(store).generate(request)
    assert found is not None
    assert [(one.product_id, one.score, one.reason) for one in found.results] == [
        ("x", 0.5, Reason.PROVIDED),
        ("y", 0.5, Reason.PROVIDED),
        ("z", 0.25, Reason.PROVIDED),
    ]
    assert (found.model_version, [answer.source for answer in found.answers]) == ("tuesday", [Source.STORE])
