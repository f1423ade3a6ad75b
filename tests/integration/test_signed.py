"""Records with MACs in a real Redis: what other programs write is never read, and what the scripts change stays valid."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from cache_sidecar.tiers.ports import Expiry, Leased, Record, Times
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.scan import KeyScan, Kind
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from tests.support import inside
from tests.support.dataset_case import Direct, OpenL2, fill, say, told_until
from tests.support.tokens import secret_file

NOW = 1_700_000_000.0
OURS = Record(7, NOW, b"ours")
SLIDES = Record(7, NOW, b"ours", Expiry(NOW, NOW + 1000, NOW))
HIGH = 2**62


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A file with one key."""
    file = secret_file(tmp_path / "keys", "0123456789abcdef0123456789abcdef\n")
    return str(file)


@pytest.fixture
async def signed(open_either: OpenL2, keys: str) -> AsyncIterator[RedisL2]:
    """An L2 that has the key, on the cluster, then on the single server."""
    async with open_either(redis_mac_keys_file=keys) as opened:
        yield opened


def key_of(l2: RedisL2, id: str = "a") -> str:
    return str(inside.names_of(l2).key("product", id))


async def touch(l2: RedisL2, now: float, id: str = "a") -> Record | None:
    times = Times(now, expired_before=now - 100, flush_before=now - 10, ttl=110)
    return (await l2.touch("product", [id], times)).records.get(id)


async def test_what_is_written_is_read(signed: RedisL2) -> None:
    await fill(signed, "product", {"a": OURS}, ttl=100)
    assert await signed.put_if_newer("product", {"b": OURS, "c": Record(7, NOW, None), "d": 7}, ttl=100) == {}
    assert await signed.read("product", list("abcd")) == {"a": OURS, "b": OURS, "c": Record(7, NOW, None)}
    assert signed.unsigned["product"] == signed.unreadable["product"] == 0


@pytest.mark.parametrize("forged", [codec.encode(Record(HIGH, NOW, b"forged")), codec.encode(Record(HIGH, NOW, None))])
async def test_what_another_program_wrote_is_a_miss_and_replaced(signed: RedisL2, forged: bytes) -> None:
    await fill(signed, "product", {"a": OURS}, ttl=100)
    await Direct(signed).set(key_of(signed), forged)
    with structlog.testing.capture_logs() as logs:
        assert await signed.read("product", ["a"]) == {}
        found = await signed.read_leased("product", ["a"])
    assert (dict(found.records), list(found.leases), list(found.elsewhere)) == ({}, ["a"], [])
    assert signed.unsigned["product"] == 2
    assert [log["dataset"] for log in logs] == ["product"], "logged once"
    await signed.fill("product", {"a": OURS}, found.leases, ttl=100)
    assert await signed.read("product", ["a"]) == {"a": OURS}


async def test_what_is_replaced_meanwhile_stays(signed: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the read of what was forged and the lease in its place, a writer may have put the next version there."""
    await Direct(signed).set(key_of(signed), codec.encode(Record(1, NOW, b"forged")))
    replace = inside.replace_of(signed)

    async def write_first(*arguments: Any) -> Any:
        await signed.put_if_newer("product", {"a": OURS}, ttl=100)
        return await replace(*arguments)

    monkeypatch.setattr(signed, inside.REPLACE, write_first)
    assert await signed.read_leased("product", ["a"]) == Leased({}, {}, set())
    monkeypatch.undo()
    assert await signed.read("product", ["a"]) == {"a": OURS}


async def test_a_record_of_another_id_or_dataset_is_not_believed(signed: RedisL2) -> None:
    await signed.put_if_newer("product", {"a": OURS}, ttl=100)
    await signed.put_if_newer("session", {"b": OURS}, ttl=100)
    client = Direct(signed)
    await client.set(key_of(signed, "b"), await client.get(key_of(signed, "a")))
    await client.set(key_of(signed, "a"), await client.get(inside.names_of(signed).key("session", "b")))
    assert await signed.read("product", ["a", "b"]) == {}
    assert signed.unsigned["product"] == 2


async def test_a_record_that_slides_stays_valid_while_it_is_used(signed: RedisL2) -> None:
    found = await signed.read_leased("product", ["a"])
    await signed.fill("product", {"a": SLIDES}, found.leases, ttl=100)
    assert await touch(signed, NOW + 20) == SLIDES._replace(expiry=Expiry(NOW + 20, NOW + 1000, NOW))
    read_again = SLIDES._replace(read_at=NOW + 30, expiry=Expiry(NOW + 5, NOW + 1000, NOW + 5))
    assert await signed.fill("product", {"a": read_again}, {}, ttl=100) == {}
    assert await touch(signed, NOW + 30) == read_again._replace(expiry=Expiry(NOW + 30, NOW + 1000, NOW + 20))


async def test_the_end_of_a_session_cannot_be_put_off(signed: RedisL2) -> None:
    found = await signed.read_leased("product", ["a"])
    await signed.fill("product", {"a": SLIDES}, found.leases, ttl=100)
    await Direct(signed).execute_command("SETRANGE", key_of(signed), 51, codec.milliseconds(NOW + 9999))
    assert await touch(signed, NOW) is None
    assert signed.unsigned["product"] == 1


async def test_a_use_in_the_future_is_no_use(signed: RedisL2) -> None:
    found = await signed.read_leased("product", ["a"])
    await signed.fill("product", {"a": SLIDES}, found.leases, ttl=100)
    await Direct(signed).execute_command("SETRANGE", key_of(signed), 39, codec.milliseconds(NOW + 900))
    assert await touch(signed, NOW) is None
    assert signed.unreadable["product"] == 1


async def test_the_ttl_of_signed_records_is_extended(signed: RedisL2) -> None:
    await signed.put_if_newer("product", {"a": OURS}, ttl=100)
    await signed.extend_ttl("product", ttl=1000, now=NOW)
    assert await Direct(signed).pttl(key_of(signed)) > 900_000


async def test_a_sidecar_with_keys_that_are_not_required_reads_both(open_either: OpenL2, keys: str) -> None:
    async with (
        open_either() as plain,
        open_either(redis_mac_keys_file=keys, redis_mac_required=False) as both,
    ):
        await plain.put_if_newer("product", {"a": OURS}, ttl=100)
        await both.put_if_newer("product", {"b": OURS}, ttl=100)
        for l2 in (plain, both):
            assert await l2.read("product", ["a", "b"]) == {"a": OURS, "b": OURS}


async def test_watermarks_of_another_program_are_absent(signed: RedisL2, keys: str) -> None:
    connection, names = inside.connection_of(signed), inside.names_of(signed)
    ours, plain = RedisWatermarks(connection, names, macs=Macs(keys)), RedisWatermarks(connection, names)
    await say(plain, ["catalog"], NOW)
    with structlog.testing.capture_logs() as logs:
        assert await told_until(ours) == {}
    assert len(logs) == 1, "logged once"
    await say(ours, ["catalog"], NOW)
    assert await told_until(ours) == await told_until(plain) == {"catalog": NOW}
    client = Direct(signed)
    await client.set(names.watermark("catalog", 1), await client.get(names.watermark("catalog", 2)))
    assert 1 not in (await ours.read_watermarks(["catalog"]))["catalog"], "it is that of another partition"


async def test_verify_counts_what_has_no_mac_as_unreadable(signed: RedisL2, keys: str) -> None:
    await signed.put_if_newer("product", {"a": OURS}, ttl=100)
    await Direct(signed).set(key_of(signed, "b"), codec.encode(OURS))
    scan = KeyScan(inside.connection_of(signed), inside.names_of(signed), macs=Macs(keys))
    assert [held.kind for held in await scan.read("product", ["a", "b"])] == [Kind.VALUE, Kind.UNREADABLE]
