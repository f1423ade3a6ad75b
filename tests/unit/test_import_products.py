"""What a row has to be to become a product, and that these are the rules of the proto."""

from decimal import Decimal
from typing import Any

import protovalidate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.importer import products
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.prices import MAX_UNITS, nano_units
from cache_sidecar.importer.products import from_csv, from_json
from cache_sidecar.v1.product_pb2 import Product as ProductMessage
from tests.support import inside

CELLS = {"product_id": "A-1", "title": "A thing", "price": "12.34", "currency_code": "EUR"}
OBJECT: dict[str, Any] = dict(CELLS)
BARE: dict[str, Any] = {
    "product_id": "A-1",
    "title": "A thing",
    "price_units": 12,
    "price_nanos": 340_000_000,
    "currency_code": "EUR",
}


def reason(rule: Any, values: dict[str, Any]) -> str:
    with pytest.raises(RowRejected) as caught:
        rule(values)
    assert str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value.reason


def test_what_csv_does_not_say_is_not_written() -> None:
    assert from_csv(CELLS) == BARE


def test_a_full_csv_row() -> None:
    cells = CELLS | {
        "description": " Words. ",
        "categories": "Toys | Outdoor||Toys",
        "brand": "B",
        "image_uris": "https://images.example.com/1.jpg",
        "attributes": '{"size": "M", "colour": "red"}',
        "active": "No",
        "rank": " -1.5e2 ",
    }
    assert from_csv(cells) == BARE | {
        "description": "Words.",
        "categories": ["Toys", "Outdoor"],
        "brand": "B",
        "image_uris": ["https://images.example.com/1.jpg"],
        "attributes": '{"size": "M", "colour": "red"}',
        "active": False,
        "rank": -150.0,
    }


def test_empty_cells_empty_the_column() -> None:
    optional = ("description", "categories", "brand", "image_uris", "attributes", "active", "rank")
    assert from_csv(CELLS | dict.fromkeys(optional, " ")) == BARE | {
        "description": "",
        "categories": [],
        "brand": "",
        "image_uris": [],
        "attributes": "{}",
        "active": True,
        "rank": None,
    }


def test_what_json_does_not_say_is_not_written() -> None:
    assert from_json(OBJECT | {"brand": None, "etag": "x", "createTime": 5, "update_time": {}}) == BARE


@pytest.mark.parametrize(
    "price",
    [
        {"price": {"currency_code": "EUR", "units": 12, "nanos": 340_000_000}, "currency_code": None},
        {"price": {"currencyCode": "EUR", "units": "12", "nanos": 340_000_000}},
        {"price": {"units": "12", "nanos": "340000000"}},
        {"price": Decimal("12.34")},
        {"price": Decimal("1.234E+1")},
        {"price": "0012.3400000000000"},
    ],
)
def test_a_price_in_json(price: dict[str, Any]) -> None:
    assert from_json(OBJECT | price) == BARE


def test_json_names_in_camel_case() -> None:
    value = {"productId": "A-1", "title": "A thing", "price": 12, "currencyCode": "EUR", "imageUris": ["u"]}
    assert from_json(value) == BARE | {"price_nanos": 0, "image_uris": ["u"]}


def test_a_full_json_object() -> None:
    value = OBJECT | {"description": "", "categories": ["a", "b", "a"], "attributes": {"ä": "ö"}, "active": False, "rank": 3}
    assert from_json(value) == BARE | {
        "description": "",
        "categories": ["a", "b"],
        "attributes": '{"\\u00e4": "\\u00f6"}',
        "active": False,
        "rank": 3.0,
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"product_id": " "}, "missing_field"),
        ({"title": ""}, "missing_field"),
        ({"price": ""}, "missing_field"),
        ({"currency_code": ""}, "missing_field"),
        ({"product_id": "a\tb"}, "control_character"),
        ({"product_id": "a\x7fb"}, "control_character"),
        ({"price": "-0.01"}, "price"),
        ({"price": "nan"}, "price"),
        ({"price": "Infinity"}, "price"),
        ({"price": "1e3"}, "price"),
        ({"price": "1,50"}, "price"),
        ({"price": "1_000"}, "price"),
        ({"price": "٣"}, "price"),
        ({"price": "."}, "price"),
        ({"price": "-"}, "price"),
        ({"price": "1.0000000001"}, "price"),
        ({"price": "9223372036854775808"}, "price"),
        ({"price": "1" * 100_000}, "price"),
        ({"price": "0." + "0" * 100_000}, "price"),
        ({"currency_code": "eur"}, "currency_code"),
        ({"currency_code": "EURO"}, "currency_code"),
        ({"currency_code": "ÄÖÜ"}, "currency_code"),
        ({"active": "maybe"}, "active"),
        ({"rank": "first"}, "rank"),
        ({"rank": "nan"}, "rank"),
        ({"rank": "1_0"}, "rank"),
        ({"rank": "1" * 100_000}, "rank"),
        ({"attributes": "{"}, "attributes"),
        ({"attributes": "[" * 100_000}, "attributes"),
        ({"attributes": "[]"}, "wrong_type"),
        ({"attributes": '{"a": 1}'}, "wrong_type"),
        ({"attributes": '{"a": "\\ud800"}'}, "not_unicode"),
        ({"attributes": '{"": "a"}'}, "missing_field"),
    ],
)
def test_csv_rows_that_are_refused(change: dict[str, str], expected: str) -> None:
    assert reason(from_csv, CELLS | change) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"product_id": None}, "missing_field"),
        ({"product_id": 7}, "wrong_type"),
        ({"title": ["x"]}, "wrong_type"),
        ({"title": "a\0"}, "control_character"),
        ({"title": "\udcff"}, "not_unicode"),
        ({"description": True}, "wrong_type"),
        ({"price": None}, "missing_field"),
        ({"price": True}, "wrong_type"),
        ({"price": [1]}, "wrong_type"),
        ({"price": -1}, "price"),
        ({"price": Decimal("-0.5")}, "price"),
        ({"price": {"units": 1, "amount": 2}}, "unknown_field"),
        ({"price": {"units": -1}}, "price"),
        ({"price": {"units": 2**63}}, "price"),
        ({"price": {"units": True}}, "price"),
        ({"price": {"units": "1.5"}}, "price"),
        ({"price": {"units": 1, "nanos": 10**9}}, "price"),
        ({"price": {"units": 1, "nanos": -1}}, "price"),
        ({"price": {"units": 1, "currency_code": "USD"}}, "currency_code"),
        ({"price": {"units": 1, "currency_code": 5}, "currency_code": None}, "currency_code"),
        ({"price": {"units": 1}, "currency_code": None}, "missing_field"),
        ({"categories": "a"}, "wrong_type"),
        ({"categories": [""]}, "missing_field"),
        ({"categories": [1]}, "wrong_type"),
        ({"attributes": []}, "wrong_type"),
        ({"attributes": {"a": None}}, "wrong_type"),
        ({"active": "true"}, "wrong_type"),
        ({"rank": "1"}, "wrong_type"),
        ({"rank": True}, "rank"),
        ({"rank": Decimal("NaN")}, "rank"),
        ({"colour": "red"}, "unknown_field"),
        ({"productId": "A-1"}, "unknown_field"),
    ],
)
def test_json_objects_that_are_refused(change: dict[str, Any], expected: str) -> None:
    assert reason(from_json, OBJECT | change) == expected


@pytest.mark.parametrize("price", ["1e999999999", "1e-999999999", "-1e50"])
def test_a_short_number_that_is_long_to_write_is_never_written(price: str) -> None:
    with pytest.raises(RowRejected, match="an implausible price: Decimal"):
        from_json(OBJECT | {"price": Decimal(price)})


@given(st.integers(0, MAX_UNITS), st.integers(0, 10**9 - 1))
def test_prices_are_exact(units: int, nanos: int) -> None:
    assert nano_units(f"{units}.{nanos:09}") == units * 10**9 + nanos
    assert from_csv(CELLS | {"price": f"{units}.{nanos:09}"}) == BARE | {"price_units": units, "price_nanos": nanos}


@given(st.decimals(min_value=0, max_value=10**15, places=9))
def test_prices_are_exact_in_json(price: Decimal) -> None:
    product = from_json(OBJECT | {"price": price})
    assert product["price_units"] + Decimal(product["price_nanos"]).scaleb(-9) == price


def message(**fields: Any) -> ProductMessage:
    found = ProductMessage(**({"product_id": "A-1", "title": "A thing"} | fields))
    found.price.currency_code = "EUR"
    return found


def _attributes(count: int, key: int, value: int) -> dict[str, str]:
    return {f"{number:03}".rjust(key, "k"): "v" * value for number in range(count)}


LIMITS = [
    *((name, lambda n: "ü" * n, limit) for name, limit in products.MAX_CHARACTERS.items()),
    *((name, lambda n: [str(i) for i in range(n)], products.MAX_ITEMS[name]) for name in ("categories", "image_uris")),
    *((name, lambda n: ["ü" * n], products.MAX_ITEM_CHARACTERS[name]) for name in ("categories", "image_uris")),
    ("attributes", lambda n: _attributes(n, 3, 1), products.MAX_ITEMS["attributes"]),
    ("attributes", lambda n: _attributes(1, 3, n), products.MAX_ITEM_CHARACTERS["attributes"]),
    ("attributes", lambda n: _attributes(1, n, 1), products.MAX_ATTRIBUTE_KEY_CHARACTERS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "limit"), LIMITS, ids=[f"{name} {limit}" for name, _, limit in LIMITS])
def test_limits_are_those_of_the_proto(name: str, make: Any, limit: int) -> None:
    protovalidate.validate(message(**{name: make(limit)}))
    from_json(OBJECT | {name: make(limit)})
    with pytest.raises(protovalidate.ValidationError):
        protovalidate.validate(message(**{name: make(limit + 1)}))
    assert reason(from_json, OBJECT | {name: make(limit + 1)}) in {"too_long", "too_many"}


def test_fields_are_those_of_the_proto() -> None:
    known = set(products.CSV_HEADER.names) - {"currency_code"} | inside.ignored_of(products)
    assert known == set(ProductMessage.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, 0x80, 0x20, ord("{"), ord(":")])
def test_ids_are_refused_where_the_proto_refuses_them(code: int) -> None:
    product_id = f"a{chr(code)}b"
    try:
        protovalidate.validate(message(product_id=product_id))
    except protovalidate.ValidationError:
        assert reason(from_json, OBJECT | {"product_id": product_id}) == "control_character"
    else:
        assert from_json(OBJECT | {"product_id": product_id})["product_id"] == product_id
