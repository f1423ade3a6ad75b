"""RecommendationService as its callers see it. The lists themselves are tested in unit/test_recommendations_rank.py."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from cache_sidecar.config import experiment
from cache_sidecar.v1 import admin_service_pb2 as admin_pb
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_pb2 import RecommendationModel as Model
from cache_sidecar.v1.recommendation_pb2 import RecommendationPlacement as Placement
from cache_sidecar.v1.recommendation_pb2 import RecommendationReason as Reason
from tests.integration.test_cli import run as command
from tests.support.customers import new_user
from tests.support.recommended import Basket, Visitor, forget, ids_of, learn_baskets
from tests.support.shop import L1, L2, STORE, Shop, new_id, refused
from tests.support.stockroom import Stockroom

PAGE, CART = Placement.RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL, Placement.RECOMMENDATION_PLACEMENT_SHOPPING_CART


@pytest.fixture
def visitor(shop: Shop) -> Visitor:
    return Visitor(shop.channel)


Learn = Callable[..., Awaitable[None]]


@pytest.fixture
def learn(shops: tuple[Shop, Shop], shared_database: str) -> Learn:
    """Learns from purchases; no sidecar holds anything from before."""

    async def learn_and_forget(*baskets: Basket) -> None:
        await learn_baskets(shared_database, *baskets)
        await forget(*shops)

    return learn_and_forget


async def new_products(shop: Shop, count: int) -> list[str]:
    """Creates products, in the order of their ids."""
    ids = sorted(new_id("rec") for _ in range(count))
    for id in ids:
        await shop.create(id)
    return ids


async def test_a_home_page_list_is_computed_once_and_then_answered_from_memory(
    visitor: Visitor, shops: tuple[Shop, Shop], learn: Learn
) -> None:
    a, b, c = await new_products(shops[0], 3)
    user = new_user()
    await learn((user, [a, b]), (user, [a]), (new_user(), [a, c]), (new_user(), [a, c]))
    first = await visitor.ask(user)
    assert ids_of(first)[:3] == [a, b, c]
    assert [(one.reason, one.because_product_id) for one in first.recommendations[:3]] == [
        (Reason.RECOMMENDATION_REASON_BOUGHT_BEFORE, ""),
        (Reason.RECOMMENDATION_REASON_BOUGHT_BEFORE, ""),
        (Reason.RECOMMENDATION_REASON_BOUGHT_TOGETHER, a),
    ]
    scores = [one.score for one in first.recommendations]
    assert scores == sorted(scores, reverse=True)
    assert not first.recommendations[0].HasField("terms")
    assert (first.generator, first.fallback, first.model_version, first.cache.source) == ("shop", "", "1", STORE)
    assert first.attribution_token.startswith("shop/1/HOME_PAGE/RECOMMENDED_FOR_YOU/")
    assert first.HasField("model_time")
    assert first.cache.version > 0
    second = await visitor.ask(user)
    assert second.cache.source == L1
    assert (ids_of(second), second.attribution_token) == (ids_of(first), first.attribution_token)
    # The same request with the defaults named, from Python.
    named = await visitor.ask(user, placement=Placement.RECOMMENDATION_PLACEMENT_HOME_PAGE, page_size=10, personalised=True)
    assert (named.cache.source, ids_of(named)) == (L1, ids_of(first))
    # Another sidecar takes it from Redis.
    third = await Visitor(shops[1].channel).ask(user)
    assert (third.cache.source, ids_of(third)) == (L2, ids_of(first))


async def test_an_unknown_user_gets_popular_products(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    a, b = await new_products(shop, 2)
    await learn(*[(new_user(), [b])] * 40, *[(new_user(), [a])] * 20)
    reply = await visitor.ask(new_user())
    assert ids_of(reply)[:2] == [b, a]
    assert {one.reason for one in reply.recommendations} == {Reason.RECOMMENDATION_REASON_POPULAR}
    assert (reply.generator, reply.fallback) == ("popular", "")
    assert ids_of(await visitor.ask()) == ids_of(reply)
    assert await visitor.ids(model=Model.RECOMMENDATION_MODEL_BEST_SELLERS, page_size=2) == [b, a]
    assert await visitor.ids(new_user(), model=Model.RECOMMENDATION_MODEL_BUY_IT_AGAIN) == []
    # Who is not to be recognized is nobody.
    buyer = new_user()
    await learn((buyer, [a]), (buyer, [a]))
    assert (await visitor.ids(buyer))[0] == a
    hidden = await visitor.ask(buyer, personalised=False)
    assert (ids_of(hidden), hidden.generator) == (ids_of(reply), "popular")


async def test_carts_and_pages_get_what_is_bought_together(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    a, b, c, d = await new_products(shop, 4)
    await learn(*[(new_user(), [a, b])] * 6, *[(new_user(), [a, c])] * 3, *[(new_user(), [b, d])] * 2)
    page = await visitor.ask(placement=PAGE, context_product_ids=[a, "no-such-product"])
    assert ids_of(page)[:2] == [b, c]
    assert (page.generator, list(page.missing_product_ids)) == ("shop", ["no-such-product"])
    assert page.recommendations[0].reason == Reason.RECOMMENDATION_REASON_BOUGHT_TOGETHER
    assert page.recommendations[0].because_product_id == a
    assert not set(ids_of(page)) & {a}
    cart = await visitor.ids(placement=CART, cart_product_ids=[a, b])
    assert cart[:2] == [c, d]
    assert not set(cart) & {a, b}
    assert (await visitor.ids(placement=CART, cart_product_ids=[a, b], exclude_product_ids=[c]))[0] == d
    assert len(await visitor.ids(placement=CART, cart_product_ids=[a], page_size=1)) == 1


async def test_what_was_bought_is_left_out_where_that_is_asked_for(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    a, b, c = await new_products(shop, 3)
    user = new_user()
    await learn((user, [a, b]), *[(new_user(), [a, c])] * 3, *[(new_user(), [b])] * 3)
    new = await visitor.ask(user, model=Model.RECOMMENDATION_MODEL_OTHERS_YOU_MAY_LIKE)
    assert ids_of(new)[0] == c
    assert new.recommendations[0].reason == Reason.RECOMMENDATION_REASON_ALSO_BOUGHT
    assert not set(ids_of(new)) & {a, b}
    assert set(await visitor.ids(user)) >= {a, b}
    assert not set(await visitor.ids(user, filter_purchased=True)) & {a, b}


async def test_what_is_inactive_deleted_or_sold_out_is_in_no_list(
    visitor: Visitor, shop: Shop, stock: Stockroom, learn: Learn
) -> None:
    a, b, c, d, e = await new_products(shop, 5)
    user = new_user()
    await learn((user, [a, b, c, d, e]), (user, [a, b, c, d, e]))
    await stock.set(d, 0)
    await stock.set(e, 5)
    await shop.update(b, "active", active=False)
    await shop.delete(c)
    again = Model.RECOMMENDATION_MODEL_BUY_IT_AGAIN
    assert await visitor.ids(user, model=again) == [a, e]
    assert not set(await visitor.ids(user)) & {b, c, d}


async def test_lists_are_full_even_if_most_candidates_must_not_be_shown(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    user, gone, there = new_user(), [f"{new_id('gone')}-{n}" for n in range(60)], await new_products(shop, 30)
    await learn((user, gone), (user, gone), (new_user(), there), (user, there))
    shown = await visitor.ids(user, page_size=20)
    assert set(shown) <= set(there)
    assert len(shown) == 20


async def test_a_list_is_full_even_if_hundreds_of_best_sellers_are_gone(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    (there,), user = await new_products(shop, 1), new_user()
    gone = [(new_user(), [f"{new_id('gone')}-{n}" for n in range(25)]) for _ in range(40)]
    await learn(*gone, *gone, (new_user(), [there]), (user, [new_id("own")]))
    for who in ("", user):
        assert len(await visitor.ids(who, page_size=1)) == 1


async def test_explain_says_what_a_score_is_made_of(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    a, b = await new_products(shop, 2)
    user = new_user()
    await learn((user, [a, b]), (user, [a]))
    await visitor.ask(user)
    reply = await visitor.ask(user, explain=True)
    first = reply.recommendations[0]
    assert first.product_id == a
    terms = first.terms
    assert terms.history > 0
    assert terms.popular > 0
    assert first.score == pytest.approx(terms.history + terms.context + terms.similar + terms.popular)
    assert ids_of(reply) == await visitor.ids(user)


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"user_id": "a\n"}, "user_id"),
        ({"user_id": "a" * 129}, "user_id"),
        ({"placement": 9}, "placement"),
        ({"model": 9}, "model"),
        ({"page_size": 101}, "page_size"),
        ({"page_size": -1}, "page_size"),
        ({"context_product_ids": ["a"] * 101}, "context_product_ids"),
        ({"cart_product_ids": [""]}, "cart_product_ids[0]"),
        ({"exclude_product_ids": ["a"] * 501}, "exclude_product_ids"),
    ],
)
async def test_what_is_invalid_is_refused(visitor: Visitor, fields: dict[str, object], violation: str) -> None:
    refusal = await refused(visitor.calls.GetRecommendations(pb.GetRecommendationsRequest(**fields)))  # type: ignore[arg-type]
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == [violation]


async def test_the_policy_decides_whether_sold_out_products_are_shown(
    visitor: Visitor, shop: Shop, stock: Stockroom, learn: Learn
) -> None:
    a, b = await new_products(shop, 2)
    user = new_user()
    await learn((user, [a, b]), (user, [a, b]))
    await stock.set(b, 0)
    again = Model.RECOMMENDATION_MODEL_BUY_IT_AGAIN
    async with policy_with(shop, hide_sold_out=False):
        assert await visitor.ids(user, model=again) == [a, b]
        assert await visitor.ids(user, model=again, filter_out_of_stock=True) == [a]
    assert await visitor.ids(user, model=again) == [a]


async def test_an_experiment_gives_each_user_a_variant(visitor: Visitor, shop: Shop, learn: Learn) -> None:
    (a,) = await new_products(shop, 1)
    users = [new_user() for _ in range(8)]
    await learn(*[(user, [a]) for user in users])
    variants = "control=1; simple=1:popular"
    async with policy_with(shop, experiment_id="ranking", experiment_salt="x", experiment_variants=variants):
        replies = [await visitor.ask(user) for user in users]
        chosen = [experiment.choose(experiment.parse(variants), salt="x", user_id=user).name for user in users]
        assert [(reply.experiment_id, reply.variant) for reply in replies] == [("ranking", name) for name in chosen]
        assert [reply.generator for reply in replies] == ["popular" if name == "simple" else "shop" for name in chosen]
        assert all(f"/ranking/{reply.variant}/" in reply.attribution_token for reply in replies)
        assert (await visitor.ask()).experiment_id == "", "nobody is in no variant"


@contextlib.asynccontextmanager
async def policy_with(shop: Shop, **values: Any) -> AsyncIterator[None]:
    """Changes the policy of recommendations for a while."""
    given = admin_pb.DatasetPolicy(dataset="recommendation", **values)
    mask = FieldMask(paths=list(values))
    await shop.admin.UpdatePolicy(admin_pb.UpdatePolicyRequest(policy=given, update_mask=mask))
    try:
        yield
    finally:
        given = admin_pb.DatasetPolicy(dataset="recommendation")
        await shop.admin.UpdatePolicy(admin_pb.UpdatePolicyRequest(policy=given, reset_mask=mask))


async def test_the_command_prints_a_table(shop: Shop, learn: Learn) -> None:
    a, b = await new_products(shop, 2)
    user = new_user()
    await learn((user, [a]), (user, [a]), *[(new_user(), [a, b])] * 3)
    code, out, err = await command("recommend", user, "--explain", "--size", "2", "--address", shop.address)
    assert (code, err) == (0, "")
    heads, first, second, blank, facts = out.splitlines()
    assert heads.split() == ["product", "score", "history", "context", "similar", "popular", "reason", "because"]
    assert (first.split()[0], first.split()[-1]) == (a, "BOUGHT_BEFORE")
    assert second.split()[0] == b
    assert second.split()[-2:] == ["BOUGHT_TOGETHER", a]
    numbers = [float(number) for number in first.split()[1:6]]
    assert numbers[0] == pytest.approx(sum(numbers[1:]), abs=0.001)
    assert blank == ""
    assert facts.startswith("generator shop; model 1; of 2026-11-")
    code, out, _ = await command(
        "recommend", user, "--placement", "cart", "--product", a, "--model", "best-sellers", "--address", shop.address
    )
    assert (code, a in out) == (0, False)
    code, _, err = await command("recommend", user, "--model", "best", "--address", shop.address)
    assert (code, err.startswith("cache-sidecar: there is no model 'best'")) == (64, True)
    code, _, err = await command("recommend", user, "--address", "127.0.0.1:1")
    assert (code, err.startswith("cache-sidecar: the sidecar at 127.0.0.1:1 does not answer")) == (69, True)
