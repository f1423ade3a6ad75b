"""What a row has to be to become a cart or a line of one."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.importer import carts
from cache_sidecar.importer.carts import CartLines, from_json
from cache_sidecar.importer.fields import MAX_ID_CHARACTERS
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.timestamps import timestamp
from cache_sidecar.services.cart_items import Limits
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.v1.cart_pb2 import CartItem
from tests.support.customers import item

LIMITS = Limits(items=3, quantity=10)


def row(
    user_id: str = "u", product_id: str = "a", quantity: str = "1", unit_price: str = "2.50", **more: str
) -> dict[str, str]:
    cells = {"user_id": user_id, "product_id": product_id, "quantity": quantity, "unit_price": unit_price}
    return cells | {"currency_code": "EUR"} | more


def items(columns: dict[str, Any]) -> list[tuple[str, int]]:
    return [(line["product_id"], line["quantity"]) for line in json.loads(columns["items"])]


def refusal(work: Any, *arguments: Any) -> str:
    with pytest.raises(RowRejected) as caught:
        work(*arguments)
    return caught.value.reason


def test_lines_of_a_cart_come_together() -> None:
    lines = CartLines(LIMITS)
    assert items(lines.add(row(product_id="a"))) == [("a", 1)]
    assert items(lines.add(row(product_id="b", quantity="2"))) == [("a", 1), ("b", 2)]
    assert items(lines.add(row("v", "c"))) == [("c", 1)]
    assert items(lines.add(row("v", "c", options='{"size": "M"}'))) == [("c", 1), ("c", 1)]
    assert items(lines.add(row("v", "c", quantity="3"))) == [("c", 4), ("c", 1)]


def test_a_cart_in_two_pieces_is_noticed() -> None:
    lines = CartLines(LIMITS)
    lines.add(row("u"))
    lines.add(row("v"))
    assert refusal(lines.add, row("u", "b")) == "not_adjacent"
    assert items(lines.add(row("v", "b"))) == [("a", 1), ("b", 1)]


def test_a_line_that_is_refused_leaves_the_rest_of_its_cart() -> None:
    lines = CartLines(LIMITS)
    lines.add(row(product_id="a", quantity="9"))
    assert refusal(lines.add, row(product_id="a", quantity="2")) == "too_many"
    assert refusal(lines.add, row(product_id="b", quantity="x")) == "quantity"
    assert items(lines.add(row(product_id="b"))) == [("a", 9), ("b", 1)]


def test_an_object_is_a_cart() -> None:
    given = {
        "userId": "u",
        "items": [
            {"product_id": "a", "quantity": 2, "unit_price": {"currency_code": "EUR", "units": "29", "nanos": 990_000_000}},
            {"productId": "b", "quantity": 1, "unitPrice": Decimal("59.99"), "currencyCode": "EUR", "options": {"size": "L"}},
        ],
        "etag": "7",
        "totals": [],
        "update_time": "2026-01-02T03:04:05+01:00",
        "create_time": 1_700_000_000,
    }
    columns = from_json(given, LIMITS)
    assert json.loads(columns["items"]) == [
        {
            "product_id": "a",
            "quantity": 2,
            "price_units": 29,
            "price_nanos": 990_000_000,
            "currency_code": "EUR",
            "options": {},
        },
        {
            "product_id": "b",
            "quantity": 1,
            "price_units": 59,
            "price_nanos": 990_000_000,
            "currency_code": "EUR",
            "options": {"size": "L"},
        },
    ]
    assert columns["user_id"] == "u"
    assert columns["update_time"] == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert columns["create_time"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


LINE = {"product_id": "a", "quantity": 1, "unit_price": "1", "currency_code": "EUR"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"items": []}, "missing_field"),
        ({"user_id": "u"}, "wrong_type"),
        ({"user_id": "u", "items": [7]}, "wrong_type"),
        ({"user_id": "u", "items": [], "colour": 1}, "unknown_field"),
        ({"user_id": "u", "items": [LINE | {"price": 1}]}, "unknown_field"),
        ({"user_id": "a\nb", "items": []}, "control_character"),
        ({"user_id": "u" * 129, "items": []}, "too_long"),
        ({"user_id": "u", "items": [LINE | {"quantity": 0}]}, "quantity"),
        ({"user_id": "u", "items": [LINE | {"quantity": True}]}, "quantity"),
        ({"user_id": "u", "items": [LINE | {"quantity": 2**31}]}, "quantity"),
        ({"user_id": "u", "items": [LINE | {"quantity": 11}]}, "too_many"),
        ({"user_id": "u", "items": [LINE | {"product_id": p} for p in "abcd"]}, "too_many"),
        ({"user_id": "u", "items": [LINE | {"unit_price": None}]}, "missing_field"),
        ({"user_id": "u", "items": [LINE | {"unit_price": "-1"}]}, "price"),
        ({"user_id": "u", "items": [LINE | {"unit_price": {"units": -1, "currency_code": "EUR"}}]}, "price"),
        ({"user_id": "u", "items": [LINE | {"unit_price": {"units": 1}, "currency_code": None}]}, "missing_field"),
        ({"user_id": "u", "items": [LINE | {"unit_price": str(2**62), "quantity": 4}]}, "price"),
        ({"user_id": "u", "items": [LINE | {"currency_code": "eur"}]}, "currency_code"),
        ({"user_id": "u", "items": [LINE | {"currency_code": None}]}, "missing_field"),
        ({"user_id": "u", "items": [LINE | {"options": []}]}, "options"),
        ({"user_id": "u", "items": [LINE | {"options": {str(n): "" for n in range(9)}}]}, "options"),
        ({"user_id": "u", "items": [LINE | {"options": {"a": 1}}]}, "wrong_type"),
        ({"user_id": "u", "items": [], "update_time": "yesterday"}, "time"),
        ({"user_id": "u", "items": [], "update_time": "2026-01-02T03:04:05"}, "time"),
        ({"user_id": "u", "items": [], "update_time": []}, "wrong_type"),
    ],
)
def test_what_is_no_cart_is_refused(given: dict[str, Any], reason: str) -> None:
    assert refusal(from_json, given, LIMITS) == reason


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (row(options="{"), "options"),
        (row(quantity="1.5"), "quantity"),
        (row(quantity=""), "quantity"),
        (row(unit_price=""), "missing_field"),
        (row(unit_price="1e3"), "price"),
        (row(user_id=""), "missing_field"),
        (row(update_time="x"), "time"),
    ],
)
def test_what_is_no_line_is_refused(cells: dict[str, str], reason: str) -> None:
    assert refusal(CartLines(LIMITS).add, cells) == reason


def test_the_limits_are_those_of_the_proto() -> None:
    fits = {"n" * carts.MAX_OPTION_NAME: "v" * carts.MAX_OPTION} | {str(n): "" for n in range(carts.MAX_OPTIONS - 1)}
    validate(item("p" * MAX_ID_CHARACTERS, carts.MAX_QUANTITY, **fits))
    for too_much in (
        item("p" * (MAX_ID_CHARACTERS + 1)),
        item("p", 1, **fits | {"one more": ""}),
        item("p", 1, **{"n" * (carts.MAX_OPTION_NAME + 1): ""}),
        item("p", 1, n="v" * (carts.MAX_OPTION + 1)),
        CartItem(product_id="p", quantity=0, unit_price=item("p").unit_price),
    ):
        with pytest.raises(InvalidRequest):
            validate(too_much)


def test_moments_are_read_exactly() -> None:
    assert timestamp("t", "2026-11-23T20:38:00.000001Z") == datetime(2026, 11, 23, 20, 38, 0, 1, tzinfo=UTC)
    assert timestamp("t", Decimal("1700000000.25")).microsecond == 250_000
    for wrong in ("", "2026-13-01T00:00:00Z", "999999999999", "1e9", True):
        with pytest.raises(RowRejected):
            timestamp("t", wrong)
