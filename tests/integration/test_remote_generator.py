"""The shop's own model behind gRPC: what it is asked, and what its failures cost."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import tracing
from cache_sidecar.core.dependencies import Dependencies, Dependency
from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.recommendations.generator import Kind, ListRequest, Place
from cache_sidecar.recommendations.rank import Reason
from cache_sidecar.recommendations.remote import EFFECT, MAX_REPLY, RemoteGenerator
from cache_sidecar.tiers.ports import Freshness
from cache_sidecar.tiers.resilience.breaker import BREAK_AFTER, BREAK_FOR
from cache_sidecar.v1 import recommendation_pb2 as messages
from tests.support.authority import Authority
from tests.support.clocks import ManualClock
from tests.support.collector import collecting, parent, tracing_to
from tests.support.free_ports import later_ports
from tests.support.gates import turns
from tests.support.shop_model import Reply, Request, ShopModel, a_list
from tests.support.tokens import secret_file
from tests.support.until import until

# Seconds: longer than any test runs, and short enough to be waited for.
LONG, SHORT = 10.0, 0.05
ANYTHING = ListRequest(user_id="ann", place=Place.HOME_PAGE, kind=Kind.RECOMMENDED_FOR_YOU, size=10)


class Asked:
    """A generator, and what is known of its server."""

    def __init__(self, generator: RemoteGenerator, clock: ManualClock, dependency: Dependency) -> None:
        self.generator, self.clock, self.dependency = generator, clock, dependency

    async def list(self, request: ListRequest = ANYTHING) -> list[str] | None:
        found = await self.generator.generate(request)
        return None if found is None else [result.product_id for result in found.results]

    async def failure(self, request: ListRequest = ANYTHING) -> Failure | None:
        try:
            await self.generator.generate(request)
        except TierFailed as error:
            return error.failure
        return None

    @property
    def reason(self) -> str:
        failing = self.dependency.failing()
        return failing.reason if failing else ""


@contextlib.asynccontextmanager
async def asking(address: str, *, timeout: float = LONG, **more: Any) -> AsyncIterator[Asked]:
    names = {
        f"recommendation_remote_{name}": value for name, value in ({"address": address, "timeout": timeout} | more).items()
    }
    settings = Settings(redis_nodes="127.0.0.1:1", postgres_catalog="postgresql://localhost/shop", **names)
    clock = ManualClock()
    dependency = Dependencies(clock=clock, is_logged=False).of("recommendation model")
    generator = RemoteGenerator(settings, clock=clock, dependency=dependency)
    try:
        yield Asked(generator, clock, dependency)
    finally:
        await generator.close()


@pytest.fixture
async def model() -> AsyncIterator[ShopModel]:
    model = ShopModel()
    async with model.serving():
        yield model
        model.gate.open()


async def test_the_model_is_told_what_the_list_is_for(model: ShopModel) -> None:
    model.reply = a_list("sofa", "lamp", model_version="v7", model_time=Timestamp(seconds=1_700_000_000, nanos=500_000_000))
    request = ListRequest(
        user_id="ann",
        place=Place.SHOPPING_CART,
        kind=Kind.FREQUENTLY_BOUGHT_TOGETHER,
        page=["desk"],
        cart=["rug", "bed"],
        exclude={"b", "a"},
        size=30,
    )
    async with asking(model.address) as asked:
        found = await asked.generator.generate(request)
    assert model.requests == [
        Request(
            user_id="ann",
            placement=messages.RECOMMENDATION_PLACEMENT_SHOPPING_CART,
            model=messages.RECOMMENDATION_MODEL_FREQUENTLY_BOUGHT_TOGETHER,
            page_size=30,
            context_product_ids=["desk"],
            cart_product_ids=["rug", "bed"],
            exclude_product_ids=["a", "b"],
        )
    ]
    assert found is not None
    assert (found.model_version, found.model_time) == ("v7", 1_700_000_000.5)
    assert [(one.product_id, one.score, one.reason) for one in found.results] == [
        ("sofa", 2.0, Reason.PROVIDED),
        ("lamp", 1.0, Reason.PROVIDED),
    ]


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("kind", Kind)
async def test_every_placement_and_model_has_its_name(model: ShopModel, place: Place, kind: Kind) -> None:
    async with asking(model.address) as asked:
        await asked.list(ListRequest(user_id="", place=place, kind=kind, size=1))
    assert messages.RecommendationPlacement.Name(model.requests[0].placement).endswith(place)
    assert messages.RecommendationModel.Name(model.requests[0].model).endswith(kind)


async def test_an_empty_list_leaves_it_to_the_next_generator(model: ShopModel) -> None:
    model.reply = Reply()
    async with asking(model.address) as asked:
        assert await asked.list() is None
        assert asked.reason == ""


async def test_what_the_model_sends_is_not_trusted(model: ShopModel) -> None:
    model.reply = a_list("sofa", "", "x" * 129, "lamp", "sofa", "rug", "bed", model_version="v" * 100)
    for one, score in zip(model.reply.recommendations, [1.0, 9.0, 9.0, math.nan, 9.0, math.inf, -1.0], strict=True):
        one.score = score
    async with asking(model.address) as asked:
        found = await asked.generator.generate(ANYTHING)
        assert found is not None
        assert [(one.product_id, one.score) for one in found.results] == [
            ("sofa", 1.0),
            ("lamp", 0.0),
            ("rug", 0.0),
            ("bed", -1.0),
        ]
        assert len(found.model_version) == 64
        assert await asked.list(dataclasses.replace(ANYTHING, size=2)) == [
            "sofa",
            "lamp",
        ]
        model.reply = a_list("x" * MAX_REPLY)
        assert await asked.failure() is Failure.REFUSED


async def test_a_model_that_hangs_is_asked_three_times_and_then_now_and_then(model: ShopModel) -> None:
    model.gate.close()
    async with asking(model.address, timeout=SHORT) as asked:
        for _ in range(BREAK_AFTER):
            assert asked.reason == ""
            assert await asked.failure() is Failure.TIMEOUT
        failing = asked.dependency.failing()
        assert failing is not None
        assert (failing.what, failing.effect) == ("recommendation model", EFFECT)
        count = len(model.requests)
        assert await asked.failure() is Failure.UNREACHABLE
        assert len(model.requests) == count
    model.gate.open()


async def test_a_model_that_works_again_is_found_by_a_trial(model: ShopModel) -> None:
    async with asking("127.0.0.1:1") as asked:
        for _ in range(BREAK_AFTER):
            assert await asked.failure() is Failure.UNREACHABLE
        assert "UNAVAILABLE" in asked.reason
    address = f"127.0.0.1:{later_ports(1)[0]}"
    async with asking(address) as asked:
        for _ in range(BREAK_AFTER):
            assert await asked.failure() is Failure.UNREACHABLE
        async with model.serving(address):

            async def is_found() -> bool:
                asked.clock.advance(BREAK_FOR)
                return await asked.failure() is None

            await until(is_found)
            assert (await asked.list(), asked.reason) == (["sofa", "lamp", "rug"], "")


async def test_a_model_that_answers_with_errors_is_reported_and_asked_on(model: ShopModel) -> None:
    model.error = grpc.StatusCode.INTERNAL
    async with asking(model.address) as asked:
        for _ in range(BREAK_AFTER + 1):
            assert await asked.failure() is Failure.REFUSED
        assert asked.reason == "INTERNAL: the model is not trained"
        assert len(model.requests) == BREAK_AFTER + 1
        model.error = None
        assert (await asked.list(), asked.reason) == (["sofa", "lamp", "rug"], "")


async def test_a_caller_in_a_hurry_waits_for_half_of_its_time_and_the_model_is_not_blamed(model: ShopModel) -> None:
    model.gate.close()
    async with asking(model.address) as asked:
        for _ in range(BREAK_AFTER + 1):
            left = Freshness(until=asyncio.get_running_loop().time() + 2 * SHORT)
            hurried = dataclasses.replace(ANYTHING, freshness=left)
            assert await asked.failure(hurried) is Failure.TIMEOUT
        assert asked.reason == ""
        model.gate.open()
        assert (await asked.list(), asked.reason) == (["sofa", "lamp", "rug"], "")


async def test_equal_requests_at_the_same_time_are_one_call(model: ShopModel) -> None:
    model.gate.close()
    async with asking(model.address) as asked:
        same = [asyncio.create_task(asked.list()) for _ in range(50)]
        await model.gate.reached()
        same[0].cancel()
        for_another_user = dataclasses.replace(ANYTHING, user_id="bob")
        other = asyncio.create_task(asked.list(for_another_user))
        await until(lambda: model.gate.waiting == 2)
        model.gate.open()
        assert await asyncio.gather(*same[1:], other) == [["sofa", "lamp", "rug"]] * 50
        assert sorted(request.user_id for request in model.requests) == ["ann", "bob"]
        model.error = grpc.StatusCode.INTERNAL
        assert await asked.failure() is Failure.REFUSED
        model.error = None
        assert await asked.failure() is None


async def test_the_model_gets_the_context_of_a_traced_call_and_who_shares_it_refers_to_it(model: ShopModel) -> None:
    async with collecting() as collector, tracing_to(collector.address) as tracer, asking(model.address) as asked:
        await asked.list()
        assert "traceparent" not in model.metadata[0]
        model.gate.close()
        calls = []
        for trace in ("a" * 32, "b" * 32):
            with tracing.use(tracer.begin_call("shop.S/Ask", parent(trace), "shop=1")):
                calls.append(asyncio.create_task(asked.list()))
                await model.gate.reached()
        await turns(3)  # the second has joined
        model.gate.open()
        await asyncio.gather(*calls)
        method = "cache_sidecar.v1.RecommendationGeneratorService/GenerateRecommendations"
        call = await collector.call(method, "a" * 32)
        wait = await collector.call("wait for the call of the recommendation model", "b" * 32)
    assert model.metadata[1]["traceparent"] == f"00-{'a' * 32}-{call.id}-01"
    assert model.metadata[1]["tracestate"] == "shop=1"
    assert call.kind == "CLIENT"
    assert wait.links == {call.id}


async def test_over_tls_both_sides_are_authenticated_and_new_files_are_used(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    server, client = authority.server(), authority.client("sidecar")
    credentials = grpc.ssl_server_credentials([(server.key, server.cert)], authority.cert, require_client_auth=True)
    ca, cert, key = tmp_path / "ca", tmp_path / "cert", secret_file(tmp_path / "key", client.key)
    ca.write_bytes(other.cert)
    cert.write_bytes(client.cert)
    files = {"tls": True, "tls_ca": str(ca), "tls_cert": str(cert), "tls_key": str(key)}
    model = ShopModel()
    async with model.serving(credentials=credentials), asking(model.address, **files) as asked:
        assert await asked.failure() is Failure.UNREACHABLE
        ca.write_bytes(authority.cert)
        for _ in range(3):
            asked.generator.look()
        assert await asked.list() == ["sofa", "lamp", "rug"]
    async with model.serving(credentials=credentials), asking(model.address, tls=True, tls_ca=str(ca)) as asked:
        assert await asked.failure() is Failure.UNREACHABLE
