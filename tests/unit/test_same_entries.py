"""When two entries of a cache say the same: there are many ways to write one message."""

import pytest
from google.protobuf.message import Message

from cache_sidecar.services import cart, product
from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.cart_service_pb2 import GetCartResponse
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2 import GetProductResponse


@pytest.mark.parametrize(
    ("same", "whole", "first", "second"),
    [
        (
            product.is_same_entry,
            GetProductResponse(product=Product(product_id="a", title="A mug")),
            GetProductResponse(product=Product(title="A mug")),
            GetProductResponse(product=Product(product_id="a")),
        ),
        (
            cart.is_same_entry,
            GetCartResponse(cart=Cart(user_id="a", etag="1")),
            GetCartResponse(cart=Cart(etag="1")),
            GetCartResponse(cart=Cart(user_id="a")),
        ),
    ],
)
def test_a_message_in_two_parts_is_the_same_as_in_one(same, whole: Message, first: Message, second: Message) -> None:
    data, parts = whole.SerializeToString(), first.SerializeToString() + second.SerializeToString()
    assert data != parts
    assert same(data, data)
    assert same(data, parts)
    assert not same(data, first.SerializeToString())
