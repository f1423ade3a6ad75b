"""Pages: parts that fail or take too long, and the messages of parts, which are replies of other services."""

import asyncio
from typing import Any, cast

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cache_sidecar.core.errors import DataLoss, InvalidRequest, NotFound, Overloaded, ReplyTooLarge, SidecarError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.server import status
from cache_sidecar.services.page_parts import PageParts
from cache_sidecar.services.shared.bounds import BESIDE, Bound
from cache_sidecar.v1 import storefront_service_pb2 as pb
from cache_sidecar.v1.cart_service_pb2 import GetCartResponse
from cache_sidecar.v1.inventory_service_pb2 import BatchGetInventoryResponse, GetInventoryResponse
from cache_sidecar.v1.product_service_pb2 import (
    BatchGetProductsResponse,
    GetProductRequest,
    GetProductResponse,
    ListProductsResponse,
)
from cache_sidecar.v1.recommendation_service_pb2 import GetRecommendationsResponse
from cache_sidecar.v1.session_service_pb2 import GetSessionResponse
from tests.support.gates import Gate

REPLIES: list[tuple[type[Message], type[Message]]] = [
    (pb.ProductPart, GetProductResponse),
    (pb.ProductsPart, BatchGetProductsResponse),
    (pb.ProductListPart, ListProductsResponse),
    (pb.InventoryPart, GetInventoryResponse),
    (pb.InventoriesPart, BatchGetInventoryResponse),
    (pb.RecommendationsPart, GetRecommendationsResponse),
    (pb.CartPart, GetCartResponse),
    (pb.SessionPart, GetSessionResponse),
]


class Call:
    """A call with a deadline, as far as pages look at it."""

    def __init__(self, left: float | None) -> None:
        self.left = left

    def time_remaining(self) -> float | None:
        return self.left


class Parts:
    """Parts that the test decides."""

    def __init__(self, *, left: float | None = None, max_bytes: int = 100_000) -> None:
        self.tasks = BackgroundTasks()
        self.gate = Gate()
        self.gate.close()
        self.page = PageParts(cast("Any", Call(left)), tasks=self.tasks, describe=status.of, bound=Bound(max_bytes))

    def of(self, product_id: str) -> asyncio.Task[bytes | None]:
        return self.page.start(self._product(product_id))

    async def _product(self, product_id: str) -> bytes | None:
        return GetProductResponse(product={"product_id": product_id}).SerializeToString()

    def held(self) -> asyncio.Task[bytes | None]:
        """Returns a part that is there once the gate is open."""
        return self.page.start(self._held())

    async def _held(self) -> bytes | None:
        await self.gate.passed()
        return b""

    def failed(self, error: Exception) -> asyncio.Task[bytes | None]:
        return self.page.start(self._fail(error))

    async def _fail(self, error: Exception) -> bytes | None:
        raise error

    async def reply(self, subject: str = "", **parts: asyncio.Task[bytes | None] | None) -> pb.GetProductPageResponse:
        with self.page:
            return pb.GetProductPageResponse.FromString(
                await self.page.reply(pb.GetProductPageResponse, parts, subject=subject)
            )


@pytest.mark.parametrize(("part", "reply"), REPLIES, ids=lambda kind: kind.DESCRIPTOR.name)
def test_a_part_has_every_field_of_the_reply_that_is_its_bytes(part: type[Message], reply: type[Message]) -> None:
    def described(field: FieldDescriptor) -> tuple[Any, ...]:
        kind = field.message_type.full_name if field.message_type else ""
        return field.number, field.type, kind, field.is_repeated

    theirs = {field.name: described(field) for field in reply.DESCRIPTOR.fields}
    ours = {field.name: described(field) for field in part.DESCRIPTOR.fields}
    assert {name: ours.get(name) for name in theirs} == theirs
    assert ours.keys() - theirs.keys() <= {"error", "products"}
    assert part.DESCRIPTOR.fields_by_name["error"].number == pb.ProductPart.ERROR_FIELD_NUMBER


def test_every_part_has_its_own_metadata_and_its_own_error() -> None:
    pages = [one for one in pb.DESCRIPTOR.message_types_by_name.values() if one.name.endswith("PageResponse")]
    parts = {field.message_type.name: field.message_type for page in pages for field in page.fields}
    assert len(parts) == 9
    for part in parts.values():
        assert {"error", "cache"} <= set(part.fields_by_name)


async def test_a_part_that_is_not_there_before_the_deadline_is_marked_and_cancelled() -> None:
    parts = Parts(left=0.05)
    late = parts.held()
    reply = await parts.reply(product=parts.of("a"), inventory=late)
    assert reply.product.product.product_id == "a"
    assert (reply.inventory.error.code, reply.inventory.error.reason) == (4, "DEADLINE_EXCEEDED")
    await parts.tasks.join()
    assert late.cancelled()


async def test_a_part_that_was_cancelled_is_marked() -> None:
    parts = Parts()
    ended = parts.held()
    ended.cancel()
    reply = await parts.reply(product=parts.of("a"), inventory=ended)
    assert reply.inventory.error.reason == "DEADLINE_EXCEEDED"


async def test_a_subject_that_is_late_does_not_take_the_time_of_the_others() -> None:
    parts = Parts(left=0.05)
    reply = await parts.reply(subject="product", product=parts.held(), inventory=parts.of("a"))
    assert reply.product.error.reason == "DEADLINE_EXCEEDED"
    assert not reply.inventory.HasField("error")


async def test_a_deadline_that_has_passed_waits_for_nothing() -> None:
    parts = Parts(left=-1.0)
    there = parts.of("a")
    await parts.tasks.join()
    reply = await parts.reply(product=there, inventory=parts.held())
    assert reply.product.product.product_id == "a"
    assert reply.inventory.error.reason == "DEADLINE_EXCEEDED"


async def test_without_a_deadline_a_page_waits_for_all_of_its_parts() -> None:
    parts = Parts()
    waiting = asyncio.create_task(parts.reply(product=parts.of("a"), inventory=parts.held()))
    await parts.gate.reached()
    assert not waiting.done()
    parts.gate.open()
    assert (await waiting).HasField("inventory")


async def test_a_missing_subject_fails_the_page_before_the_other_parts_are_there() -> None:
    parts = Parts()
    with pytest.raises(NotFound):
        await parts.reply(subject="product", product=parts.failed(NotFound("product", "a")), inventory=parts.held())
    await parts.tasks.join()


@pytest.mark.parametrize("error", [NotFound("inventory", "a"), DataLoss("inventory", "a"), Overloaded("many wait")])
async def test_other_errors_are_marked_as_the_call_would_have_failed(error: SidecarError) -> None:
    parts = Parts()
    reply = await parts.reply(subject="product", product=parts.of("a"), inventory=parts.failed(error))
    marked, alone = reply.inventory.error, status.of(error)
    assert (marked.code, marked.reason, marked.message) == (alone.code, status.reason_of(alone), alone.message)
    assert marked.HasField("retry_delay") == isinstance(error, Overloaded)


async def test_a_defect_is_marked_and_its_text_is_not_told() -> None:
    parts = Parts()
    reply = await parts.reply(product=parts.of("a"), inventory=parts.failed(ZeroDivisionError("secret")))
    assert (reply.inventory.error.code, reply.inventory.error.reason) == (13, "INTERNAL")
    assert "secret" not in reply.inventory.error.message


async def test_a_fault_of_the_request_fails_the_page() -> None:
    parts = Parts()
    with pytest.raises(InvalidRequest):
        await parts.reply(product=parts.of("a"), inventory=parts.failed(InvalidRequest({"page_token": "is none"})))


async def test_a_page_without_any_part_fails_with_the_error_of_the_first() -> None:
    parts = Parts()
    with pytest.raises(DataLoss):
        await parts.reply(product=parts.failed(DataLoss("product", "a")), cart=parts.failed(Overloaded("many wait")))


async def test_a_page_that_nothing_was_asked_of_is_empty() -> None:
    parts = Parts()
    assert not (await parts.reply(cart=None, session=None)).ListFields()
    made = await parts.reply(product=parts.of("a"), session=None, inventory=parts.page.start(_nothing()))
    assert [field.name for field, _ in made.ListFields()] == ["product"]


async def _nothing() -> bytes | None:
    return None


async def test_a_part_that_does_not_fit_is_marked_and_those_after_it_are_there() -> None:
    parts = Parts(max_bytes=BESIDE + 2000)
    reply = await parts.reply(product=parts.of("a" * 1500), inventory=parts.of("b" * 1500), cart=parts.of("c"))
    assert reply.product.product.product_id == "a" * 1500
    assert reply.inventory.error.reason == "REPLY_TOO_LARGE"
    assert int(reply.inventory.error.metadata["size"]) > int(reply.inventory.error.metadata["limit"]) == BESIDE + 2000
    assert reply.HasField("cart")


async def test_what_is_inside_a_part_has_an_error_of_its_own() -> None:
    async def fails(_: object, __: object) -> bytes:
        raise ReplyTooLarge(2, 1)

    async def hangs(_: object, __: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    for method, reason in ((fails, "REPLY_TOO_LARGE"), (hangs, "DEADLINE_EXCEEDED")):
        parts = Parts(left=0.05)
        found = pb.ProductsPart.FromString(await parts.page.read_inside(method, GetProductRequest()))
        assert found.error.reason == reason
