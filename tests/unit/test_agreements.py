"""What has to agree across languages: offsets in Lua and in the codec, a limit in SQL and in Python."""

import re

from cache_sidecar.store import outbox
from cache_sidecar.tiers.ports import Expiry, Record
from cache_sidecar.tiers.redis import codec
from tests.guards import ROOT
from tests.support import inside

LUA = (ROOT / "cache_sidecar/tiers/redis/scripts.lua").read_text()
RECORD = Record(0xABC, 1.5, b"value", Expiry(used=2.5, end=3.5, stored=4.5, history="0123abcd"))


def _constants() -> dict[str, int | bytes]:
    """Returns the constants of the script, `local A, B = 1, 'x'`."""
    found: dict[str, int | bytes] = {}
    for names, values in re.findall(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = ([^{}\n]+)$", LUA, re.MULTILINE):
        parsed = [value.strip() for value in values.split(",")]
        for name, value in zip(names.split(", "), parsed, strict=True):
            found[name] = int(value) if value.isdigit() else value.strip("'").encode()
    return found


def test_the_script_finds_each_field_where_the_codec_writes_it() -> None:
    at, data = _constants(), codec.encode(RECORD)

    def between(first: str, last: str) -> bytes:
        return data[at[first] : at[last]]  # type: ignore[misc]  # offsets are numbers

    assert data[: at["VERSION"]] == b"0000000000000abc"
    assert data[at["VERSION"] : at["KIND"] + 1] == codec.SLIDING + b"v"  # type: ignore[operator]
    assert between("READ", "READ_END") == codec.milliseconds(1.5)
    assert between("USED", "END") == codec.milliseconds(2.5)
    assert between("END", "STORED") == codec.milliseconds(3.5)
    assert between("STORED", "HISTORY") == codec.milliseconds(4.5)
    assert between("HISTORY", "SLIDING") == b"0123abcd"
    assert data[at["SLIDING"] :] == b"value"


def test_the_script_knows_the_kinds_of_the_codec() -> None:
    at = _constants()
    kind = at["KIND"]
    assert isinstance(kind, int)
    assert codec.invalidation(1)[kind : kind + 1] == at["INVALIDATED"]
    lease = codec.lease(b"token")
    assert lease[kind : kind + 1] == at["LEASE"]
    foreign = lease[:kind] + bytes(at["FOREIGN"]) + lease[kind + 1 :]
    assert codec.instead_of_foreign(foreign) == lease


def test_a_round_of_the_outbox_is_as_long_as_the_function_in_sql_makes_it() -> None:
    """In a database without a catalogue, a round is longer."""
    found = []
    for name in ("catalog/0011_product_lists", "shared/0001_versions_and_outbox"):
        sql = (ROOT / f"cache_sidecar/store/migrations/{name}.sql").read_text()
        found += re.findall(r"WHERE position IS NULL ORDER BY version LIMIT (\d+)", sql)
    assert found == [str(inside.round_of(outbox)), "10000"]
