"""Page tokens: what is given comes back, and nothing else is taken."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.shared import pages
from tests.support import inside

IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)
LISTINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)


def made_by_hand(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@given(id=IDS, listing=LISTINGS)
def test_a_token_says_where_to_go_on(id: str, listing: str) -> None:
    token = pages.token(id, listing)
    assert pages.after(token, listing) == id
    assert len(token) <= 1024


@pytest.mark.parametrize("character", ["\U0001f6cb", '"', "\\", "ä", "\u2028"])
def test_the_longest_token_fits_into_a_request(character: str) -> None:
    assert len(pages.token(character * 128, character * 128)) <= 1024


@given(id=IDS, made=LISTINGS, used=LISTINGS)
def test_a_token_of_another_listing_is_refused(id: str, made: str, used: str) -> None:
    if made != used:
        with pytest.raises(InvalidRequest):
            pages.after(pages.token(id, made), used)


@given(token=st.text(min_size=1, max_size=200))
def test_what_is_no_token_is_refused_in_words(token: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pages.after(token, "")
    assert list(caught.value.violations) == ["page_token"]


def test_no_token_is_the_first_page() -> None:
    assert pages.after("", "sofas") == ""


@pytest.mark.parametrize(
    "content",
    [[], ["a"], ["a", "", "b"], [1, ""], ["a", 1], {"a": ""}, "a", None, 5, ["a\x00", ""], ["\ud800", ""], [["a"], ""]],
)
def test_a_token_of_another_shape_is_refused(content: object) -> None:
    # With the listing in the clear as well as hashed: whichever the token carries.
    for listing in ("", inside.digest(pages, "")):
        shaped = [*content[:-1], listing] if isinstance(content, list) and content and content[-1] == "" else content
        with pytest.raises(InvalidRequest):
            pages.after(made_by_hand(shaped), "")


@pytest.mark.parametrize("data", [b"[" * 700, b"[" * 100_000, b"9" * 5000, b"\xff", b"NaN", b'["a"'])
def test_hostile_contents_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        pages.after(base64.urlsafe_b64encode(data).decode(), "")


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_the_page_size(asked: int, given: int) -> None:
    assert pages.size(asked) == given
