"""Files as spreadsheets and shops write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer import inventory, products, recommendations
from cache_sidecar.importer.elements import Elements, find_array
from cache_sidecar.importer.ids import Ids
from cache_sidecar.importer.line_reader import MAX_LINE_BYTES, Line, Lines
from cache_sidecar.importer.parsers import Rejection, RowRejected
from cache_sidecar.importer.record_reader import RecordReader
from cache_sidecar.importer.run import parse_names
from cache_sidecar.importer.source import DamagedInput, Source, Transcoder
from cache_sidecar.importer.spec import ImportSpec, Parts
from tests import import_fuzz

HEADER = "product_id,title,price,currency_code"
PARTS = Parts(settings=lambda: pytest.fail("not needed"), policy=lambda: pytest.fail("not needed"))


async def read(
    folder: Path,
    data: bytes | str,
    *,
    spec: ImportSpec = products.IMPORT,
    names: dict[str, str] | None = None,
    currency: str = "",
) -> tuple[str, list[Any]]:
    """Returns the format, and the id of each row, or line and reason of a rejection."""
    path = folder / "data"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    found: list[Any] = []
    with Source(str(path)) as source:
        constants = {"currency_code": currency} if currency else {}
        reader = RecordReader(source, spec.headers, format=None, wrappers=spec.wrappers, names=names, constants=constants)
        format = await reader.start()
        parse = spec.parsers(PARTS)[format]
        async for records in reader.batches():
            for record in records:
                if isinstance(record, Rejection):
                    found.append((record.number, record.reason))
                    continue
                try:
                    found.append(parse(record.values))
                except RowRejected as error:
                    found.append((record.number, error.reason))
    return format, found


def ids(found: list[Any]) -> list[Any]:
    return [each if isinstance(each, tuple) else each["product_id"] for each in found]


JSON = [{"product_id": name, "title": 'a "[,]{', "price": "1", "currency_code": "EUR"} for name in "AB"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"{HEADER},,\nA,a,1,EUR,,\nB,b,2,EUR\n,,,,,\n", ["A", "B"]),
        (f"{HEADER}\rA,a,1,EUR\rB,b,2,EUR\r", ["A", "B"]),
        (f'{HEADER}\rA,"a\rb",1,EUR\rB,b,2,EUR', ["A", "B"]),
        (f"sep=;\r\n{HEADER.replace(',', ';')}\r\nA;a;1;EUR\r\n", ["A"]),
        (f'"sep=,"\n\n{HEADER}\nA,a,1,EUR\n', ["A"]),
        ("Product-ID,title,price,currency code\nA,a,1.5000,EUR\n", ["A"]),
        (f"{HEADER}\nA,\u00e4,1,EUR\n".encode("utf-16"), ["A"]),
        (f"{HEADER}\nA,\u00e4,1,EUR\n".encode("utf-16-le"), ["A"]),
        (f"{HEADER}\nA,\U0001f642,1,EUR\n".encode("utf-16-be"), ["A"]),
        (f"{HEADER}\nA,x,1,EUR\nB,y,1,EUR".encode("utf-16-le")[:-1], ["A", (3, "incomplete")]),
        (
            f"{HEADER}\nA\u200b,a,1,EUR\nB\ufeff,b,1,EUR\nC\u00adD,c,1,EUR\n",
            [(line, "invisible_character") for line in (2, 3, 4)],
        ),
        (f"{HEADER}\nA\u3164,a,1,EUR\nB\ufe0f,b,1,EUR\n", [(line, "invisible_character") for line in (2, 3)]),
        (
            f'{HEADER}\n"=""00123""",a,1,EUR\n="00124",b,1,EUR\n=C,c,1,EUR\n',
            [(2, "spreadsheet_formula"), (3, "spreadsheet_formula"), "=C"],
        ),
        (
            f"{HEADER}\n#N/A,a,1,EUR\nB,#REF!,1,EUR\nC,c,#N/A,EUR\n",
            [(2, "spreadsheet_error"), (3, "spreadsheet_error"), (4, "price")],
        ),
        (json.dumps(JSON), ["A", "B"]),
        (json.dumps(JSON, indent=2), ["A", "B"]),
        ("\ufeff \n" + json.dumps(JSON), ["A", "B"]),
        (json.dumps({"count": 2, "next": None, "products": JSON, "more": [1]}, indent=1), ["A", "B"]),
        (json.dumps({"data": JSON}), ["A", "B"]),
        ("[]", []),
        ("[\n 5,\n\n {]},\n" + json.dumps(JSON[0]) + ",]", [(2, "not_object"), (4, "not_json"), "A"]),
        ("[" + json.dumps(JSON[0]) + ",\n{", ["A", (2, "incomplete")]),
        ("\n".join(map(json.dumps, JSON)), ["A", "B"]),
    ],
)
async def test_products(tmp_path: Path, data: bytes | str, expected: list[Any]) -> None:
    assert ids((await read(tmp_path, data))[1]) == expected


async def test_a_row_with_a_list_called_like_the_import_is_a_row(tmp_path: Path) -> None:
    line = '{"user_id": "ann", "recommendations": ["A", "B"]}\n'
    _, found = await read(tmp_path, line * 2, spec=recommendations.IMPORT)
    assert [isinstance(row, dict) for row in found] == [True, True]


@pytest.mark.parametrize("header", ["sku,qty", "product-id,Stock", "SKU,store_view_code,qty,name"])
async def test_stock_with_fractions_that_are_none(tmp_path: Path, header: str) -> None:
    middle = "," * header.count("store_view_code")
    end = ",Kite" * header.count("name")
    rows = [f"A{middle},100.0000{end}", f"B{middle},3.5{end}"]
    (_, found) = await read(tmp_path, "\n".join([header, *rows]), spec=inventory.IMPORT)
    assert found == [{"product_id": "A", "available": 100}, (3, "available")]


SHOPIFY = """Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Variant SKU,Variant Inventory Qty,Variant Price,Image Src,Status
kite,Tin Kite,<p>Flies</p>,Acme,Toys,"a, b",true,Colour,Red,K-1,5,9.99,https://x/1.jpg,active
kite,,,,,,,,Blue,K-2,,10.50,,
kite,,,,,,,,,,,,https://x/2.jpg,
bat,Bat,,Acme,,,true,Title,Default Title,B-1,-2,4,,draft
"""
WOO = """ID,Type,SKU,Name,Published,"Is featured?",Description,Stock,"Sale price","Regular price",Categories,Images,Parent,Position
1,variable,K,Kite,1,0,Flies,,,,Toys,,,7
2,variation,K-1,"Kite - Red",1,0,,7,8,9.99,"Toys > Kites, Sale\\, big","https://x/1.jpg, https://x/2.jpg",K,1
3,simple,B-1,Bat,-1,0,,,,4,,,,-2
4,variation,K-2,"Kite - Blue",1,0,,,,9.99,,,id:1,2
"""
MAGENTO = """sku,store_view_code,attribute_set_code,product_type,categories,name,description,price,product_online,qty
K-1,,Default,simple,"Default Category/Toys,Default Category/Sale",Kite,Flies,9.9900,1,100.0000
K-1,de,,,,Drachen,,,,
K,,Default,configurable,,Kites,,,1,0
B-1,,Default,simple,,Bat,,4.0000,2,0.0000
"""


@pytest.mark.parametrize(("name", "text"), [("shopify", SHOPIFY), ("woocommerce", WOO), ("magento", MAGENTO)])
async def test_layouts_of_shops(tmp_path: Path, name: str, text: str) -> None:
    format, found = await read(tmp_path, text, currency="EUR")
    assert format == name
    rows = {row["product_id"]: row for row in found if isinstance(row, dict)}
    skipped = [reason for _, reason in (each for each in found if isinstance(each, tuple))]
    assert (rows["K-1"]["price_units"], rows["K-1"]["price_nanos"], rows["K-1"]["currency_code"]) == (9, 990_000_000, "EUR")
    assert (rows["K-1"]["active"], rows["B-1"]["active"]) == (True, False)
    match name:
        case "shopify":
            assert skipped == ["no_product"]
            assert (rows["K-1"]["title"], rows["K-2"]["title"], rows["B-1"]["title"]) == (
                "Tin Kite - Red",
                "Tin Kite - Blue",
                "Bat",
            )
            assert (rows["K-2"]["brand"], rows["K-2"]["description"], rows["K-1"]["categories"]) == (
                "Acme",
                "<p>Flies</p>",
                ["Toys"],
            )
        case "woocommerce":
            assert skipped == ["no_price"]
            assert rows["K-1"]["categories"] == ["Toys > Kites", "Sale, big"]
            assert rows["K-1"]["image_uris"] == ["https://x/1.jpg", "https://x/2.jpg"]
            assert [rows[id]["rank"] for id in ("K-1", "K-2", "B-1")] == [7.0, 7.0, -2.0]
        case _:
            assert skipped == ["store_view", "no_price"]
            assert rows["K-1"]["categories"] == ["Default Category/Toys", "Default Category/Sale"]
    _, stock = await read(tmp_path, text, spec=inventory.IMPORT)
    expected: dict[str, list[Any]] = {
        "shopify": [("K-1", 5), "not_stocked", "not_stocked", "available"],
        "woocommerce": ["not_stocked", ("K-1", 7), "not_stocked", "not_stocked"],
        "magento": [("K-1", 100), "not_stocked", ("K", 0), ("B-1", 0)],
    }
    assert [tuple(row.values()) if isinstance(row, dict) else row[1] for row in stock] == expected[name]


async def test_a_layout_without_its_currency_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks the column currency_code; .*; --currency says what it is for all rows$"):
        await read(tmp_path, WOO)


async def test_any_other_layout_by_a_map(tmp_path: Path) -> None:
    names = parse_names("id=product_id, name=title ,cost=price", products.IMPORT)
    text = "id,name,cost,title,weird\nA,Kite,9.99,ignored,x\n"
    _, found = await read(tmp_path, text, names=names, currency="EUR")
    assert [(row["product_id"], row["title"], row["price_units"]) for row in found] == [("A", "Kite", 9)]
    objects = '{"id": "A", "name": "Kite", "cost": 9.99, "weird": [1], "brand": "Acme"}\n'
    _, found = await read(tmp_path, objects, names=names, currency="EUR")
    assert [(row["product_id"], row["title"], row["brand"]) for row in found] == [("A", "Kite", "Acme")]
    with pytest.raises(InputError, match=r"has no column 'cost' to be mapped; its columns are id, name$"):
        await read(tmp_path, "id,name\nA,Kite\n", names=names)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id", "'id' must be THEIRS=OURS, such as sku=product_id"),
        ("id=sku", "there is no column 'sku'; the columns are product_id, title"),
        ("a=title,b=title", "'b=title' is the second for its column"),
    ],
)
def test_a_wrong_map(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"--map: {problem}"):
        parse_names(text, products.IMPORT)


def test_ids_that_come_twice_are_named() -> None:
    counted = Ids()
    for key in ["A", "4.00639E+12", "B", "A", "4.00639E+12", "4.00639E+12", "1E5X", "A-1E3"]:
        counted.add(key)
    repeated, shortened = counted.lines()
    assert repeated == "3 rows repeat an id, of which the last one counts: 4.00639E+12 3 times, A 2 times"
    assert shortened.startswith("warning: 3 rows have an id that looks like a number that a spreadsheet shortened")
    assert "4.00639E+12 3 times;" in shortened
    assert list(Ids().lines()) == []


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=5), st.integers(1, 7), st.sampled_from([None, 1]))
def test_elements_are_what_json_says_however_the_bytes_arrive(values: list[Any], size: int, indent: int | None) -> None:
    text = json.dumps(values, indent=indent).encode()
    begin = find_array(text, ())
    assert begin is not None
    elements = Elements(text[:begin])
    found = [line for at in range(begin, len(text), size) for line in elements.feed(text[at : at + size])]
    assert [json.loads(line.raw) for line in [*found, *elements.finish()] if isinstance(line, Line)] == values


def test_an_element_that_never_ends_takes_no_memory() -> None:
    elements = Elements(b"[")
    found = [line for _ in range(40) for line in elements.feed(b"x" * (MAX_LINE_BYTES // 16))]
    found += [*elements.feed(b",\n1]"), *elements.finish()]
    assert [(each.number, getattr(each, "reason", "")) for each in found] == [(1, "line_too_long"), (2, "")]


@given(st.lists(st.binary(max_size=6), max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.integers(1, 5))
def test_lines_are_the_same_however_the_bytes_arrive(parts: list[bytes], end: bytes, size: int) -> None:
    lines = [b"head", *(part.replace(b"\n", b"").replace(b"\r", b"") for part in parts), b"last"]
    text = end.join(lines)
    reader = Lines()
    found = [line for at in range(0, len(text), size) for line in reader.feed(text[at : at + size])]
    assert [line.raw for line in [*found, *reader.finish()]] == lines


@given(st.text(min_size=4), st.sampled_from(["utf-16", "utf-16-le", "utf-16-be"]), st.integers(1, 9))
def test_utf_16_is_utf_8_however_the_bytes_arrive(text: str, encoding: str, size: int) -> None:
    data = ("id" + text).encode(encoding)
    transcoder = Transcoder()
    made = b"".join(transcoder.feed(data[at : at + size]) for at in range(0, len(data), size)) + transcoder.finish()
    assert made.decode().removeprefix("\ufeff") == "id" + text
    cut = Transcoder()
    with pytest.raises(DamagedInput, match="cut off"):
        cut.feed(data + b"x")
        cut.finish()


async def test_no_mutated_file_ends_in_a_traceback() -> None:
    """A part of `python -m tests.import_fuzz`, always the same."""
    found = await import_fuzz.fuzz(400, seed=1)
    assert found["imported"] > 20
    assert len(found) > 10
