"""Mutated files for all imports: whatever a file is, it is imported, rejected row by row, or an error of one line.

.venv/bin/python -m tests.import_fuzz [FILES=100000] [SEED=1]
"""

import asyncio
import gzip
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import InputError
from cache_sidecar.datasets import ALL
from cache_sidecar.importer.parsers import Rejection, RowRejected
from cache_sidecar.importer.record_reader import RecordReader
from cache_sidecar.importer.source import Source
from cache_sidecar.importer.spec import ImportSpec, Parts

_SETTINGS = Settings(redis_nodes=("localhost:1",), postgres_catalog="postgresql://localhost/shop")
SPECS = {spec.imports.name: (spec.name, spec.imports) for spec in ALL if spec.imports is not None}
_PRODUCT = "product_id,title,price,currency_code,categories,attributes\n"
SEEDS: dict[str, list[bytes]] = {
    "products": [
        (_PRODUCT + 'A,"Kite, blue",1.50,EUR,Toys|Outdoor,"{""a"": ""b""}"\nB,"x\ny",2,EUR,,\n,,,,,\n').encode(),
        b"sep=;\r\nproduct_id;title;price;currency_code;;\r\nA;a;1;EUR;;\r\n4.00639E+12;b;2;EUR;;\r\n#N/A;c;3;EUR;;\r\n",
        b"product-id\ttitle\tprice\tcurrency_code\rA\ta\t1\tEUR\rB\tb\t2\tEUR\r",
        (_PRODUCT + "A\u200b,\u00e4,1,EUR,,\nB,\U0001f642,2,EUR,,\n").encode("utf-16"),
        (_PRODUCT + "A,a,1,EUR,,\n").encode("utf-16-be"),
        b'{"product_id": "A", "title": "a", "price": {"currencyCode": "EUR", "units": "1", "nanos": 5}, "categories": ["x"]}\n'
        * 2,
        b'[{"product_id": "A", "title": "[,]\\"", "price": "1", "currency_code": "EUR"},\n\n 5, null, {"title": [[{}]]}]',
        b'{"count": 2, "products": [{"product_id": "A", "title": "a", "price": 1.5e0, "currency_code": "EUR"}, {}]}',
        b"InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n1,85123a,KITE,6,12/1/2010 8:26,2.55,1,UK\n",
        (
            b"Handle,Title,Body (HTML),Vendor,Option1 Value,Variant SKU,Variant Price,Image Src,Status\n"
            b"kite,Kite,<p>,Acme,Red,K-1,9.99,http://x/1,active\nkite,,,,Blue,K-2,9.99,,\nkite,,,,,,,http://x/2,\n"
        ),
        b'ID,Type,SKU,Name,Published,Regular price,Categories,Images\n1,simple,K-1,Kite,1,9.99,"Toys > Kites, Sale",http://x\n',
        b"sku,store_view_code,attribute_set_code,name,price,product_online,categories\nK-1,,Default,Kite,9.9900,1,Default/Toys\nK-1,de,,D,,,\n",
        gzip.compress((_PRODUCT + "A,a,1,EUR,,\n").encode()),
    ],
    "inventory": [
        b"sku,qty\nA,100.0000\nB,-1\nC,\n",
        b'[{"productId": "A", "available": "5"}, {"product_id": "B", "available": 1e3}]',
        b"sku,store_view_code,qty\nA,,100.0000\n",
    ],
    "carts": [
        b'user_id,product_id,quantity,unit_price,currency_code,options\nann,A,2,1.5,EUR,"{""size"": ""L""}"\nann,B,1,2,EUR,\n',
        b'{"user_id": "ann", "items": [{"product_id": "A", "quantity": 2, "unit_price": "24.99", "currency_code": "EUR"}]}\n',
    ],
    "sessions": [b"session_id,user_id,create_time,attributes\nabcdefghijklmnopqrstuv,ann,2026-11-01T00:00:00Z,{}\n"],
    "recommendations": [
        b"user_id,product_id,recommendations,scores\nann,,A|B,0.5|0.25\n,A,B|C,\n",
        b'{"user_id": "ann", "recommendations": [{"product_id": "A", "score": 0.9}, {"product_id": "B", "score": 1e999}]}\n',
    ],
}
_TOKENS = [
    *(
        b",",
        b";",
        b"\t",
        b'"',
        b'""',
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"|",
        b"\\",
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
    ),
    *(
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc2\xa0",
        b"\xe2\x80\x8b",
        b"#N/A",
        b"1e999999999",
        b"-0",
        b"NaN",
        b"Infinity",
        b"9" * 400,
        b"sep=;\n",
    ),
    *(
        b"null",
        b"true",
        b"[" * 2000,
        b'{"a":' * 2000,
        b"\\ud800",
        b"\x1f\x8b",
        b"1969-12-31T23:59:59Z",
        b"99999-01-01",
        b"2026-02-30T25:61Z",
    ),
]


def mutate(data: bytes, random: random.Random) -> bytes:
    """Returns the data with some bytes changed, removed, repeated or replaced by tokens that readers stumble over."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at = random.randrange(len(made) + 1)
        match random.randrange(6):
            case 0:
                made[at:at] = random.choice(_TOKENS)
            case 1:
                made[at : at + random.randrange(1, 9)] = b""
            case 2:
                made[at : at + 1] = bytes([random.randrange(256)])
            case 3:
                made[at:at] = made[at : at + random.randrange(1, 40)] * random.randrange(1, 5)
            case 4:
                del made[at:]
            case _:
                made[at : at + random.randrange(1, 6)] = random.choice(_TOKENS)
    return bytes(made)


async def outcomes(spec: ImportSpec, dataset: str, path: Path) -> Iterator[str]:
    """Returns what becomes of each row, or of the file."""
    parts = Parts(settings=lambda: _SETTINGS, policy=lambda: policy.default()[dataset])
    found = Counter[str]()
    try:
        with Source(str(path)) as source:
            constants = {"currency_code": "EUR"} if spec.has_currency else None
            reader = RecordReader(source, spec.headers, format=None, wrappers=spec.wrappers, constants=constants)
            format = await reader.start()
            aggregator = spec.aggregators[format]() if format in spec.aggregators else None
            parse = aggregator.add if aggregator else spec.parsers(parts)[format]
            async for records in reader.batches():
                for record in records:
                    if isinstance(record, Rejection):
                        found[record.reason] += 1
                        continue
                    try:
                        parse(record if aggregator else record.values)  # type: ignore[arg-type]
                        found["imported"] += 1
                    except RowRejected as error:
                        assert "\n" not in str(error), error
                        found[error.reason] += 1
            if aggregator:
                found.update("imported" if isinstance(row, dict) else row.reason for row in aggregator.rows())
    except InputError as error:
        assert "\n" not in str(error), error
        found["no file of ours"] += 1
    return found.elements()


async def fuzz(files: int, seed: int) -> Counter[str]:
    """Reads mutated files; returns how many rows had which outcome. Raises what a reader raises."""
    chance = random.Random(seed)  # to be repeated, not to be unguessable
    found = Counter[str]()
    names = list(SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        for number in range(files):
            name = names[number % len(names)] if number % 2 else "products"
            data = mutate(chance.choice(SEEDS[name]), chance)
            path.write_bytes(data)
            dataset, spec = SPECS[name]
            try:
                found.update(await outcomes(spec, dataset, path))
            except Exception:
                sys.stderr.write(f"file {number} of seed {seed}, {name}: {data!r}\n")
                raise
    return found


def main() -> None:
    """Runs the command."""
    options = dict(argument.split("=") for argument in sys.argv[1:])
    files, seed = int(options.get("FILES", "100000")), int(options.get("SEED", "1"))
    began = time.monotonic()
    found = asyncio.run(fuzz(files, seed))
    sys.stdout.write(f"{files:,} files, {found.total():,} outcomes, no traceback, {time.monotonic() - began:.0f} s\n")
    for outcome, count in found.most_common():
        sys.stdout.write(f"{count:>10,}  {outcome}\n")


if __name__ == "__main__":
    main()
