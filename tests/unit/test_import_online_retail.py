"""Products are deduced from order lines."""

import statistics
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.importer import online_retail
from cache_sidecar.importer.online_retail import OrderLines, median, stock_code
from cache_sidecar.importer.parsers import Rejection, Row, RowRejected
from tests.support import inside

NANO = 10**9


def line(number: int = 2, **cells: str) -> Row:
    values = {
        "stock_code": "85123A",
        "description": "WHITE HEART",
        "invoice_date": "2010-12-01 08:26:00",
        "price": "2.55",
        "customer_id": "17850.0",
    }
    return Row(number, values | cells, b"")


def deduced(*lines: Row) -> list[Any]:
    orders = OrderLines()
    for one in lines:
        orders.add(one)
    return list(orders.rows())


def refusal(row: Row) -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        OrderLines().add(row)
    return caught.value


def test_one_order_line() -> None:
    assert deduced(line()) == [
        {
            "product_id": "85123A",
            "title": "WHITE HEART",
            "currency_code": "GBP",
            "price_units": 2,
            "price_nanos": 550_000_000,
        }
    ]


def test_the_newest_description_counts_wherever_it_stands() -> None:
    (product,) = deduced(
        line(invoice_date="2010-12-02 09:00", description="OLD"),
        line(invoice_date="2010-12-03 09:00", description=" NEW "),
        line(invoice_date="2010-12-01 09:00", description="OLDEST"),
        line(invoice_date="2010-12-04 09:00", description="  "),
    )
    assert product["title"] == "NEW"


def test_of_two_descriptions_at_one_time_the_later_line_counts() -> None:
    (product,) = deduced(line(description="FIRST"), line(description="SECOND"))
    assert product["title"] == "SECOND"


def test_a_note_of_the_warehouse_is_no_description() -> None:
    note = line(invoice_date="2011-01-01 09:00", description="thrown away", price="0.0", customer_id="")
    assert deduced(line(), note) == deduced(line())


@pytest.mark.parametrize("cells", [{"price": "0.0"}, {"customer_id": ""}])
def test_a_gift_and_an_unknown_customer_do_describe(cells: dict[str, str]) -> None:
    (product,) = deduced(line(), line(invoice_date="2011-01-01 09:00", description="NEW", **cells))
    assert product["title"] == "NEW"


def test_the_price_is_the_median_of_those_above_zero() -> None:
    prices = ["0.00", "-11062.06", "9.99", "2.55", "2.55", "3.00", "0.00", "4.00"]
    (product,) = deduced(*(line(price=price) for price in prices))
    assert (product["price_units"], product["price_nanos"]) == (3, 0)


def test_letter_case_and_blanks_around_a_stock_code_do_not_count() -> None:
    (product,) = deduced(line(), line(stock_code="85123a"), line(stock_code=" 85123A "))
    assert product["product_id"] == "85123A"


@pytest.mark.parametrize("code", ["10002", "85123A", "15056BL", "DCGS0003", "DCGSSBOY", "SP1002", "47503J", "ABC-12", "C21"])
def test_stock_codes(code: str) -> None:
    assert stock_code(code) == code


@pytest.mark.parametrize("code", [*online_retail.PSEUDO_CODES, "m", "gift_0001_20", "SAMPLES", "Bank Charges"])
def test_pseudo_codes_are_left_out_whatever_else_is_on_the_line(code: str) -> None:
    refused = refusal(line(stock_code=code, price="?", invoice_date="?"))
    assert (refused.reason, refused.left_out) == ("pseudo_code", True)
    assert code.upper() in str(refused)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"stock_code": "  "}, "missing_field"),
        ({"stock_code": "1" * 129}, "too_long"),
        ({"stock_code": "1\t2"}, "control_character"),
        ({"price": ""}, "missing_field"),
        ({"price": "two"}, "price"),
        ({"price": "1,234.50"}, "price"),
        ({"price": "99999999999999999999"}, "price"),
        ({"description": "x" * 513}, "too_long"),
        ({"invoice_date": ""}, "invoice_date"),
        ({"invoice_date": "2010-13-01 08:26"}, "invoice_date"),
        ({"invoice_date": "40513.35"}, "invoice_date"),
        ({"invoice_date": "2010-12-01 25:00"}, "invoice_date"),
    ],
)
def test_order_lines_that_are_rejected(cells: dict[str, str], reason: str) -> None:
    refused = refusal(line(**cells))
    assert (refused.reason, refused.left_out) == (reason, False)


def test_what_was_never_sold_for_a_price_is_left_out() -> None:
    (rejection,) = deduced(line(7, price="0"), line(9, price="-1"))
    assert rejection == Rejection(7, "no_price", "85123A was never sold for a price", b"85123A", left_out=True)


def test_what_has_no_description_is_left_out() -> None:
    (rejection,) = deduced(line(7, description=""))
    assert rejection == Rejection(7, "no_description", "85123A has no description", b"85123A", left_out=True)


@pytest.mark.parametrize(
    ("cell", "time"),
    [
        ("2010-12-01 08:26:00", "2010-12-01 08:26:00"),
        ("2010-12-01T08:26:59.123Z", "2010-12-01 08:26:59"),
        ("2010-12-01", "2010-12-01 00:00:00"),
        ("12/1/2010 8:26", "2010-12-01 08:26:00"),
        ("12/1/10 8:26", "2010-12-01 08:26:00"),
        ("12/1/2010 8:26:05 PM", "2010-12-01 20:26:05"),
        ("12/1/2010 12:00 am", "2010-12-01 00:00:00"),
        ("13/1/2010 8:26", "2010-01-13 08:26:00"),
        ("01-12-2010 08:26", "2010-12-01 08:26:00"),
        ("01.12.2010 08:26", "2010-12-01 08:26:00"),
        ("2010/12/01 08:26", "2010-12-01 08:26:00"),
    ],
)  # fmt: skip
def test_dates_as_the_copies_write_them(cell: str, time: str) -> None:
    assert inside.time(online_retail, cell).isoformat(" ") == time


@pytest.mark.parametrize(
    ("cell", "nanos"),
    [("2.55", 2_550_000_000), ("2,55", 2_550_000_000), ("2.5499999999999998", 2_550_000_000), ("-1.5", -1_500_000_000)],
)
def test_prices_as_the_copies_write_them(cell: str, nanos: int) -> None:
    assert inside.nanos(online_retail, cell) == nanos


@given(st.lists(st.integers(1, 10**12), min_size=1))
def test_the_median_is_the_median(prices: list[int]) -> None:
    exact = Decimal(statistics.median(map(Decimal, prices)))
    found = median(Counter(prices))
    if found != exact:
        assert abs(found - exact) <= inside.penny_of(online_retail) // 2
    if len(prices) % 2:
        assert found == exact


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        (["1", "2"], "1.5"),
        (["2.55", "2.60"], "2.58"),
        (["12.75", "13.00"], "12.88"),
        (["0.001", "0.002"], "0.0015"),
        (["0.42", "0.85", "0.85", "1.66"], "0.85"),
        (["1", "1", "1", "5", "5", "5"], "3"),
    ],
)
def test_the_mean_of_two_middle_prices_is_a_price(prices: list[str], expected: str) -> None:
    assert median(Counter(int(Decimal(price) * NANO) for price in prices)) == Decimal(expected) * NANO


def test_memory_grows_with_different_prices_and_not_with_lines() -> None:
    orders = OrderLines()
    for number in range(10_000):
        orders.add(line(number, price="2.55" if number % 2 else "2.95"))
    (seen,) = inside.seen_of(orders).values()
    assert len(seen.prices) == 2
    assert seen.prices.total() == 10_000
