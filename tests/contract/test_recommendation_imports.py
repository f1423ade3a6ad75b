"""ImportRecommendations and DeleteRecommendations as their callers see them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from grpc import StatusCode

from cache_sidecar.services import recommendation_imports
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_pb2 import ProvidedRecommendation, RecommendationList, RecommendationModel
from cache_sidecar.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from tests.support.customers import new_user
from tests.support.databases import run
from tests.support.shop import Open, Shop, new_id, refused
from tests.support.until import until

Request = pb.ImportRecommendationsRequest
Reply = pb.ImportRecommendationsResponse


class Job:
    """The shop's job that computes lists, and a page that shows them."""

    def __init__(self, shop: Shop) -> None:
        self.calls: Any = RecommendationServiceStub(shop.channel)

    async def send(self, *requests: Request) -> Reply:
        """Imports the requests of one stream."""
        reply: Reply = await self.calls.ImportRecommendations(iter(requests))
        return reply

    async def delete(self, **fields: str) -> int:
        """Returns how many lists were deleted."""
        reply = await self.calls.DeleteRecommendations(pb.DeleteRecommendationsRequest(**fields))
        return int(reply.deleted_count)

    async def shown(self, user_id: str, **fields: Any) -> tuple[str, list[str]]:
        """Returns what generated a list, and its products."""
        reply = await self.calls.GetRecommendations(pb.GetRecommendationsRequest(user_id=user_id, page_size=3, **fields))
        return reply.generator, [one.product_id for one in reply.recommendations]


@pytest.fixture
def job(shop: Shop) -> Job:
    return Job(shop)


def a_list(product_ids: Sequence[str] = ("sofa",), **fields: Any) -> RecommendationList:
    products = [ProvidedRecommendation(product_id=id, score=-place) for place, id in enumerate(product_ids)]
    return RecommendationList(recommendations=products, **fields)


def lists(count: int) -> list[RecommendationList]:
    return [a_list(user_id=new_user()) for _ in range(count)]


async def test_a_stream_is_stored_in_its_order_and_committed_at_its_end(job: Job) -> None:
    batch, given = new_id("batch"), lists(30)
    requests = [Request(batch_id=batch, first_list=first, lists=given[first : first + 10]) for first in (0, 10, 20)]
    assert await job.send(*requests[:2]) == Reply(next_list=20)
    assert await job.send(Request(batch_id=batch)) == Reply(next_list=20)
    assert await job.send(*requests, Request(batch_id=batch, first_list=30, commit=True)) == Reply(next_list=30, committed=True)
    assert await job.send(Request(batch_id=batch, first_list=30, commit=True)) == Reply(next_list=30, committed=True)


async def test_a_stream_that_sends_nothing_more_ends(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, left = new_id("batch"), asyncio.Event()

    async def requests() -> AsyncIterator[Request]:
        yield Request(batch_id=batch, lists=lists(5))
        await left.wait()

    monkeypatch.setattr(recommendation_imports, "IDLE", 0.2)
    found = await refused(job.calls.ImportRecommendations(requests()))
    left.set()
    assert (found.code, found.reason) == (StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE")
    monkeypatch.undo()
    assert await job.send(Request(batch_id=batch)) == Reply(next_list=5), "what was stored stays stored"


async def test_what_was_stored_before_an_error_stays(job: Job) -> None:
    batch = new_id("batch")
    found = await refused(
        job.send(Request(batch_id=batch, lists=lists(5)), Request(batch_id=batch, first_list=7, lists=lists(1), commit=True))
    )
    assert (found.code, found.reason) == (StatusCode.OUT_OF_RANGE, "LISTS_MISSING")
    assert found.metadata["next_list"] == "5"
    assert await job.send(Request(batch_id=batch)) == Reply(next_list=5)


async def test_a_batch_that_is_complete_does_not_change(job: Job) -> None:
    batch = new_id("batch")
    await job.send(Request(batch_id=batch, lists=lists(2), commit=True))
    found = await refused(job.send(Request(batch_id=batch, first_list=2, lists=lists(1))))
    assert (found.code, found.reason) == (StatusCode.FAILED_PRECONDITION, "BATCH_COMMITTED")


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "batch_id"),
        ([Request()], "batch_id"),
        ([Request(batch_id="b" * 65)], "batch_id"),
        ([Request(batch_id="one"), Request(batch_id="another")], "batch_id"),
        ([Request(batch_id="b", first_list=-1)], "first_list"),
        ([Request(batch_id="nothing", commit=True)], "commit"),
        ([Request(batch_id="b", lists=[a_list()])], "lists[0]"),
        ([Request(batch_id="b", lists=[a_list(user_id="u", product_id="p")])], "lists[0]"),
        ([Request(batch_id="b", lists=[a_list([], user_id="u")])], "lists[0].recommendations"),
        ([Request(batch_id="b", lists=[a_list(["p"] * 501, user_id="u")])], "lists[0].recommendations"),
        ([Request(batch_id="b", lists=[a_list([""], user_id="u")])], "lists[0].recommendations[0].product_id"),
        ([Request(batch_id="b", lists=[RecommendationList(user_id="u\n")])], "lists[0].user_id"),
        ([Request(batch_id="b", lists=[a_list(user_id="u", model=99)])], "lists[0].model"),
    ],
)
async def test_an_invalid_stream_is_refused(job: Job, requests: list[Request], field: str) -> None:
    found = await refused(job.send(*requests))
    assert found.code is StatusCode.INVALID_ARGUMENT
    assert field in found.violations


async def test_lists_are_shown_once_their_batch_is_complete_and_products_that_are_not_active_are_left_out(
    open_shop: Open,
) -> None:
    async with open_shop(recommendation_generators="provided,popular") as shop:
        job, user = Job(shop), new_user()
        sofa, lamp, rug = [(await shop.create()).product_id for _ in range(3)]
        await job.send(Request(batch_id="monday", lists=[a_list([lamp, "unknown", sofa], user_id=user)]))
        assert await job.shown(user) == ("popular", [])
        page = a_list([rug], product_id=sofa)
        await job.send(Request(batch_id="monday", first_list=1, lists=[page], commit=True))
        assert await job.shown(user) == ("provided", [lamp, sofa])
        model = RecommendationModel.RECOMMENDATION_MODEL_FREQUENTLY_BOUGHT_TOGETHER
        assert await job.shown(user, model=model, context_product_ids=[sofa]) == ("provided", [rug])
        await job.send(Request(batch_id="tuesday", lists=[a_list([rug], user_id=user)], commit=True))
        assert await job.shown(user) == ("provided", [rug])


async def test_lists_are_deleted_by_user_by_product_and_by_batch(open_shop: Open, database: str) -> None:
    async with open_shop(recommendation_generators="provided,popular") as shop:
        job, user, other = Job(shop), new_user(), new_user()
        sofa = (await shop.create()).product_id
        given = [a_list([sofa], user_id=user), a_list([sofa], user_id=other), a_list([sofa], product_id="lamp")]
        await job.send(Request(batch_id="b", lists=given, commit=True))
        assert [await job.delete(user_id=user) for _ in range(2)] == [1, 0]
        assert (await job.shown(user), await job.shown(other)) == (("popular", []), ("provided", [sofa]))
        assert await job.delete(product_id="lamp") == 1
        assert await job.delete(batch_id="b") == 1, "what is left of it"
        assert await job.shown(other) == ("popular", [])

        async def is_swept() -> bool:
            return await run(database, "SELECT count(*) FROM cache_sidecar.provided_recommendations") == [(0,)]

        await until(is_swept)
        found = await refused(job.delete(user_id="a", batch_id="b"))
        assert found.code is StatusCode.INVALID_ARGUMENT
