"""Fields put together by hand, as protobuf reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.services import cart
from cache_sidecar.services.cart import make_entry
from cache_sidecar.services.shared.wire import field
from cache_sidecar.store.cart import CartRow, Item
from cache_sidecar.v1.cache_pb2 import SOURCE_L2
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from cache_sidecar.v1.session_service_pb2 import GetSessionResponse
from tests.support import inside, strict


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_field_of_any_length_is_what_protobuf_writes(size: int) -> None:
    whole = SessionClient(user_agent="x" * size).SerializeToString()
    assert field(2, b"x" * size) == field(2, b"x", b"x" * (size - 1)) == whole


@given(st.integers(16, 2**29 - 1), st.binary(max_size=300))
def test_any_number_of_a_field_can_be_read(number: int, value: bytes) -> None:
    # It is none of this message's, which keeps what it does not know.
    assert GetSessionResponse.FromString(field(number, value)).SerializeToString() == field(number, value)


def test_fields_are_put_into_a_message() -> None:
    session = Session(user_id="u", attributes={"a": "1"}, etag="7")
    later = Session(expire_time={"seconds": 9})  # type: ignore[arg-type]
    reply = field(1, session.SerializeToString(), later.SerializeToString())
    reply += GetSessionResponse(cache={"source": SOURCE_L2}).SerializeToString()  # type: ignore[arg-type]
    strict.check_as(reply, GetSessionResponse)
    session.MergeFrom(later)
    assert GetSessionResponse.FromString(reply).session == session


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_a_cart_whose_etag_comes_last_is_the_cart(count: int) -> None:
    items = [Item(f"product {n}", n + 1, 1, 5, "EUR", {"size": "L"}) for n in range(count)]
    row = CartRow("0" * 20, items, version=0xABC)
    assert inside.make_versioned_entry(cart, row).complete(row.version) == make_entry(row)
