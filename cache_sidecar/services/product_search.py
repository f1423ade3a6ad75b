"""Searches for products, as a dataset: the id of a result is the search itself, in one form for all that ask for the same.

A result has the ids of the best products and the counts, so one statement serves all its pages. It expires within a minute, and
no change of a product invalidates it: nobody knows which results a change affects. Decision 8 says more.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from google.type.money_pb2 import Money

from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.shared import pages
from cache_sidecar.store.product_list import Listed
from cache_sidecar.store.product_search import DEPTH, MATCHES, Found, ProductSearchStore, Search, Words
from cache_sidecar.tiers.ports import Load, Row, UnreadableRow
from cache_sidecar.v1 import product_service_pb2 as pb

DATASET = "product_search"
DEFAULT_SIZE, MAX_SIZE = 20, 100
# Bytes of a search, which are those of its key in memory and in Redis.
MAX_BYTES = 4096
_NANOS = Decimal(10) ** 9
_PART = re.compile(r'-?"[^"]*"?|\S+')
_HAS_WORD = re.compile(r"[^\W_]")
# PostgreSQL fails with an internal error when 32 of them follow each other.
_EXCLUSION, MAX_EXCLUSIONS = re.compile(r"(?<![^\W_])-"), 16


class Page(NamedTuple):
    """A page of a result."""

    products: Sequence[Listed]
    start: int
    "How many products of the result come before it."
    is_last: bool


def search_of(request: pb.SearchProductsRequest) -> str:
    """Returns the id of what a request searches for. Raises InvalidRequest."""
    low, high = (getattr(request, name) if request.HasField(name) else None for name in ("min_price", "max_price"))
    currencies = {price.currency_code for price in (low, high) if price is not None}
    if len(currencies) > 1:
        raise InvalidRequest({"max_price": "must be in the currency of min_price"})
    least, most = (None if price is None else _amount(price) for price in (low, high))
    if least is not None and most is not None and most < least:
        raise InvalidRequest({"max_price": "must not be lower than min_price"})
    attributes = sorted([one.name, sorted(set(one.values))] for one in request.attributes)
    id = json.dumps(
        [
            *_words(request.query.lower(), is_prefix=request.prefix),
            sorted(set(request.categories)),
            sorted(set(request.brands)),
            "".join(currencies),
            *(None if price is None else str(price) for price in (least, most)),
            attributes,
            sorted(request.facets),
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    if len(id.encode()) > MAX_BYTES:
        raise InvalidRequest({"query": f"must not have more than {MAX_BYTES:,} bytes together with all filters"})
    return id


def _amount(price: Money) -> Decimal:
    return (Decimal(price.units) + Decimal(price.nanos) / _NANOS).normalize()


def _words(query: str, *, is_prefix: bool) -> Words:
    """Splits a query into what websearch_to_tsquery reads, and the word at its end that is only begun.

    That word goes with all after the last `or`, which binds less than words beside each other do. A dash between spaces
    excludes nothing. Raises InvalidRequest.
    """
    parts: list[str] = [re.sub("^--+", "-", part) for part in _PART.findall(query) if _HAS_WORD.search(part)]
    if len(_EXCLUSION.findall(" ".join(parts))) > MAX_EXCLUSIONS:
        raise InvalidRequest({"query": f"must not exclude more than {MAX_EXCLUSIONS} words"})
    last = parts[-1] if parts else ""
    if not is_prefix or not last or query[-1].isspace() or last.startswith("-") or '"' in last:
        return Words("", " ".join(parts), "")
    before = parts[:-1]
    if "or" not in before:
        return Words("", " ".join(before), last)
    split = len(before) - before[::-1].index("or")
    return Words(" ".join(before[: split - 1]), " ".join(before[split:]), last)


def page_of(request: pb.SearchProductsRequest, found: Found) -> Page:
    """Returns the page that a request asks for. Raises InvalidRequest."""
    start = 0
    if after := pages.after(request.page_token, _listing(request)):
        start = int(after) if after.isascii() and after.isdecimal() and len(after) <= len(str(DEPTH)) else DEPTH
    end = start + min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
    products = [Listed(id, version, "") for id, version in found.products[start:end]]
    return Page(products, start, end >= len(found.products))


def token_after(request: pb.SearchProductsRequest, end: int) -> str:
    """Returns the token of the page that begins after so many products."""
    return pages.token(str(end), _listing(request))


def _listing(request: pb.SearchProductsRequest) -> str:
    """Describes a search for its tokens, whatever it counts."""
    plain = pb.SearchProductsRequest()
    plain.CopyFrom(request)
    plain.ClearField("facets")
    return search_of(plain)


def facets_of(request: pb.SearchProductsRequest, found: Found) -> Iterable[pb.Facet]:
    """Returns the counts in the order in which a request asks for them."""
    for name in request.facets:
        values = [pb.FacetValue(value=value, count=count) for value, count in found.facets.get(name, ())]
        yield pb.Facet(name=name, values=values)


def counts_of(found: Found) -> Mapping[str, Any]:
    """Returns the fields of a reply that say how many products match."""
    return {"total_size": min(found.matches, MATCHES), "has_more_matches": found.matches > MATCHES}


# What caches keep, and how it is loaded


def loader(store: ProductSearchStore) -> Load:
    """Returns the function that searches. It gets one search at a time: a slow one delays none that come with it."""

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {id: Row(0, _pack(await store.find(search))) for id in ids if (search := _parse(id)) is not None}

    return load


def _parse(id: str) -> Search | None:
    """Returns the search of an id; None for what is none: an operator may inspect any."""
    with contextlib.suppress(ValueError, TypeError, ArithmeticError, RecursionError):
        match json.loads(id):
            case [
                str(either),
                str(rest),
                str(beginning),
                list(categories),
                list(brands),
                str(currency),
                least,
                most,
                list(attributes),
                list(facets),
            ]:
                low, high = (None if price is None else Decimal(price) for price in (least, most))
                words = Words(either, rest, beginning)
                pairs = [(name, values) for name, values in attributes]
                texts = [*categories, *brands, *facets, *(text for name, values in pairs for text in (name, *values))]
                if all(isinstance(text, str) for text in texts):
                    return Search(words, categories, brands, currency, low, high, pairs, facets)
    return None


def _pack(found: Found) -> bytes:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(value: bytes | None) -> Found:
    """Returns the result that caches keep."""
    return Found(0, [], {}) if value is None else Found(*json.loads(value))


def is_entry(_id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a result."""
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(value):
            case [int(), list(products), dict(facets)]:
                return all(map(_is_counted, products)) and all(
                    isinstance(values, list) and all(map(_is_counted, values)) for values in facets.values()
                )
    return False


def _is_counted(one: object) -> bool:
    match one:
        case [str(text), int(number)]:
            return bool(text) and 0 <= number < 2**63 and not isinstance(number, bool)
    return False
