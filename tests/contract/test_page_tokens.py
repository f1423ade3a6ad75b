"""Page tokens of every listing: what did not come from the same listing is INVALID_ARGUMENT, whatever it is made of."""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.services.shared import pages
from cache_sidecar.v1.cart_service_pb2 import ListAbandonedCartsRequest
from cache_sidecar.v1.inventory_service_pb2 import ListReservationsRequest
from cache_sidecar.v1.product_service_pb2 import ListProductsRequest
from cache_sidecar.v1.session_service_pb2 import ListUserSessionsRequest
from tests.support import inside
from tests.support.shop import Refusal, Shop, refusal


class Listing(NamedTuple):
    """A method that lists, with the text that its tokens have a digest of."""

    path: str
    request: Message
    text: str


LISTINGS = [
    Listing("ProductService/ListProducts", ListProductsRequest(category="c"), "c"),
    Listing("SessionService/ListUserSessions", ListUserSessionsRequest(user_id="u"), "u"),
    Listing("CartService/ListAbandonedCarts", ListAbandonedCartsRequest(idle_for=Duration(seconds=9)), "abandoned 9000000000"),
    Listing("InventoryService/ListReservations", ListReservationsRequest(user_id="u"), "reservations  u"),
]
IDS = [listing.path.partition("/")[2] for listing in LISTINGS]
# Characters that some layer may trip over: control characters, separators, digits that int() takes, and non-characters.
ODD = "\x00\t\n\r \x7f\x85\xa0é٣\u2028\ufeff\ufffe\U0001f600\U0010ffff!%&'()*+,-./:;<=>?@[]^_`{|}~\"\\"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def tokens(listing: Listing) -> Iterator[str]:
    """Yields tokens that are none of this listing, at most as long as requests may have them and longer."""
    chance = random.Random(listing.path)
    yield from ODD
    yield "A" * 1024
    yield "A" * 100_000
    for _ in range(100):
        yield "".join(chance.choices(ODD + "Aa0", k=chance.randrange(1, 40)))
        yield encoded(chance.randbytes(chance.randrange(1, 60)))
    for other in LISTINGS:
        if other != listing:
            yield pages.token("1 2 a", other.text)
    digest = inside.digest(pages, listing.text)
    for shape in ("[%s]", '["%s"]', '{"%s": 1}', '[["1 2 a"], "%s"]', '["\\u0000", "%s"]', '["\\ud800", "%s"]', '[7, "%s"]'):
        yield encoded((shape % digest).encode())
    yield encoded(json.dumps(["a", digest]).encode("utf-16"))[:-2]
    for own in (pages.token("1 2 a", listing.text), pages.token(str(uuid4()), listing.text)):
        for character in ODD.translate(str.maketrans("", "", "-_")):
            yield own[:20] + character + own[20:]


@pytest.mark.parametrize("listing", LISTINGS, ids=IDS)
async def test_what_is_no_token_of_the_listing_is_refused(shop: Shop, listing: Listing) -> None:
    for token in tokens(listing):
        found = await ask(shop, listing, token.encode())
        assert isinstance(found, Refusal), token
        assert found.code is StatusCode.INVALID_ARGUMENT, (token, found)
        assert set(found.violations) == {"page_token"}, (token, found)


@pytest.mark.parametrize("listing", LISTINGS, ids=IDS)
async def test_a_token_that_is_no_text_is_refused(shop: Shop, listing: Listing) -> None:
    for token in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"A\xf5", b"\x80" * 100):
        found = await ask(shop, listing, token)
        assert isinstance(found, Refusal), token
        assert found.code is StatusCode.INVALID_ARGUMENT, (token, found)


PLACES = [
    "",
    " ",
    "  ",
    "a",
    "1 2",
    "1 2 ",
    "1 2 \x7f\x85\ufffe\U0010ffff",
    "1  a",
    "1_0 2 a",
    "٣ 2 a",
    "+1 -2 a",
    "1.0 2 a",
    "inf nan a",
    f"{2**63} 0 a",
    f"{-(2**63) - 1} 0 a",
    f"{2**63 - 1} {-(2**63)} a",
    f"{-(2**63)} {2**63 - 1} a",
    "-211813488000000001 0 a",
    "0 -211813488000000001 a",
    "-211813488000000000 -211813488000000000 a",
    "9223371331199999999 9223371331199999999 a",
    "9223371331200000000 0 a",
    "0 9223371331200000000 a",
    "9" * 600,
    "0 0 " + "\U0001f600" * 120,
    str(uuid4()),
    f"{{{uuid4()}}}",
    str(uuid4()) + "0",
]


@pytest.mark.parametrize("listing", LISTINGS, ids=IDS)
async def test_a_forged_place_is_a_page_or_refused(shop: Shop, listing: Listing) -> None:
    """A token is not signed: who makes one up sees a page of what the listing has, as with a token of a page that is gone."""
    for place in PLACES:
        found = await ask(shop, listing, pages.token(place, listing.text).encode())
        if isinstance(found, Refusal):
            assert found.code is StatusCode.INVALID_ARGUMENT, (place, found)
            assert set(found.violations) == {"page_token"}, (place, found)


async def ask(shop: Shop, listing: Listing, token: bytes) -> bytes | Refusal:
    """Returns the reply to a request with a token, which need not be UTF-8, or how it was refused."""
    number = listing.request.DESCRIPTOR.fields_by_name["page_token"].number
    field = bytes([number << 3 | 2]) + varint(len(token)) + token
    call: Any = shop.channel.unary_unary(f"/cache_sidecar.v1.{listing.path}")
    try:
        return bytes(await call(listing.request.SerializeToString() + field))
    except grpc.aio.AioRpcError as error:
        return refusal(error)


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])
