"""The strict reader of protobuf messages: what it lets pass, and what not."""

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from cache_sidecar.v1 import product_service_pb2, session_service_pb2
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem
from cache_sidecar.v1.cart_service_pb2 import ApplyCartChangesRequest, GetCartResponse
from tests.support.strict import NotStrict, check_as

ITEM = CartItem(product_id="é", quantity=2, options={"a": "1", "b": "2"})


def cart(**fields: object) -> bytes:
    return GetCartResponse(cart=Cart(**fields)).SerializeToString()  # type: ignore[arg-type]


def test_what_protobuf_serializes_passes() -> None:
    check_as(cart(user_id="u", items=[ITEM, ITEM], etag="0"), GetCartResponse)
    check_as(b"", GetCartResponse)
    batch = product_service_pb2.BatchGetProductsResponse(missing=["a", "b"])
    batch.products.add(product_id="c", categories=["x", "y"])
    batch.cache.age.FromNanoseconds(1_500_000_000)
    check_as(batch.SerializeToString(), product_service_pb2.BatchGetProductsResponse)


def test_a_singular_message_that_comes_twice_is_found_however_deep() -> None:
    twice = cart(user_id="u") + cart(etag="7")
    assert GetCartResponse.FromString(twice).cart == Cart(user_id="u", etag="7")
    with pytest.raises(NotStrict, match=r"^GetCartResponse.cart is there twice$"):
        check_as(twice, GetCartResponse)
    inner = Cart(user_id="u").SerializeToString() + Cart(user_id="u").SerializeToString()
    with pytest.raises(NotStrict, match=r"^GetCartResponse.cart.user_id is there twice$"):
        check_as(b"\x0a" + bytes([len(inner)]) + inner, GetCartResponse)


def test_of_a_oneof_only_one_may_come() -> None:
    one, other = (CartChange(remove_item={"product_id": "a"}), CartChange(add_item=ITEM))
    change = one.SerializeToString() + other.SerializeToString()
    with pytest.raises(NotStrict, match="add_item is there twice"):
        check_as(b"\x12" + bytes([len(change)]) + change, ApplyCartChangesRequest)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xba\x01\x00", "has no field 23"),
        (b"\x08\x01", "has the wire type 0 instead of 2"),
        (b"\x0a\x05\x0a\x01", "cart is cut short"),
        (b"\x0a\x03\x0a\x01\xff", "user_id is not UTF-8"),
        (b"\x0a", "cut short"),
        (b"\x0b", "has the wire type 3"),
        (b"\x7a\x02\x08\x09", "source has no value 9"),
        (b"\xff" * 11, "more than 10 bytes"),
    ],
)
def test_what_is_no_message_of_its_kind_is_found(data: bytes, problem: str) -> None:
    with pytest.raises(NotStrict, match=problem):
        check_as(data, GetCartResponse)


def test_details_of_a_status_are_read_as_what_they_say_they_are() -> None:
    status, detail = status_pb2.Status(code=5), Any()
    detail.Pack(ErrorInfo(reason="NOT_FOUND", metadata={"a": "b"}))
    status.details.append(detail)
    check_as(status.SerializeToString(), status_pb2.Status)
    status.details[0].value += ErrorInfo(reason="AGAIN").SerializeToString()
    with pytest.raises(NotStrict, match="reason is there twice"):
        check_as(status.SerializeToString(), status_pb2.Status)


def test_packed_numbers_pass() -> None:
    check_as(
        session_service_pb2.DeleteUserSessionsResponse(deleted=3).SerializeToString(),
        session_service_pb2.DeleteUserSessionsResponse,
    )
