"""Purchases are read from order lines."""

from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.orders import read_purchases
from cache_sidecar.recommendations.model import PURCHASE, Event

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
NINE = 1_298_970_000.0  # 2011-03-01 09:00:00


def line(
    invoice: str = "1",
    code: str = "90001A",
    *,
    quantity: str = "6",
    time: str = "09:00:00",
    price: str = "2.50",
    who: str = "11001.0",
) -> str:
    return f"{invoice},{code},KITE,{quantity},2011-03-01 {time},{price},{who},United Kingdom\n"


async def read(path: Path, *lines: str, header: str = HEADER) -> tuple[list[Event], dict[str, int]]:
    file = path / "orders.csv"
    file.write_text(header + "".join(lines))
    found = await read_purchases(str(file))
    assert found.lines == len(lines)
    return found.events, dict(found.left_out)


async def test_the_lines_of_an_invoice_are_one_purchase_with_each_product_once(tmp_path: Path) -> None:
    lines = [line(), line(code="90002"), line(code="90001a"), line("0", "90003", time="08:00:00", who="")]
    events, left_out = await read(tmp_path, *lines)
    assert events == [
        Event(1, "0", NINE - 3600, "", PURCHASE, ("90003",)),
        Event(2, "1", NINE, "11001", PURCHASE, ("90001A", "90002")),
    ]
    assert left_out == {}


async def test_what_was_not_sold_is_left_out(tmp_path: Path) -> None:
    lines = [
        line("C2"),
        line("c3"),
        line(quantity="-6"),
        line(quantity="0"),
        line(price="0.00"),
        line(price="-2"),
        line(code="POST"),
        line(quantity="six"),
        line(price="much"),
        line(time="25:00:00"),
        line(),
    ]
    events, left_out = await read(tmp_path, *lines)
    assert [event.product_ids for event in events] == [("90001A",)]
    assert left_out == {"cancelled": 2, "not_sold": 4, "pseudo_code": 1, "quantity": 1, "price": 1, "invoice_date": 1}


async def test_a_file_with_every_line_twice_has_the_same_purchases(tmp_path: Path) -> None:
    lines = [line(), line(code="90002"), line("2", "90003")]
    once, _ = await read(tmp_path, *lines)
    twice, _ = await read(tmp_path, *(one for one in lines for _ in range(2)))
    assert once == twice


async def test_the_second_data_set_has_other_names(tmp_path: Path) -> None:
    header = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
    events, _ = await read(tmp_path, line(), header=header)
    assert [event.user_id for event in events] == ["11001"]


async def test_a_file_without_customers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks the column customer_id"):
        await read(tmp_path, header=HEADER.replace("CustomerID", "Somebody"))
