"""A rolling upgrade, and back: two versions of the sidecar side by side on one Redis and one database that the newer has migrated.

One pair is this version and one whose records and functions differ; the others are a released version, out of git, and this one.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import admin_service_pb2 as admin
from tests.compatibility.record import RELEASES, checkout
from tests.guards import ROOT
from tests.support.customers import Customer, item, lines
from tests.support.free_ports import ChoosePorts
from tests.support.launch import PATIENT, Sidecar, process, relaying, serving, settings_for
from tests.support.shop import L2, STORE, Shop, reads_redis
from tests.support.stockroom import Stockroom
from tests.support.until import until

# What makes the newer version: its records have layouts that the older does not know, and so its functions have another name.
CHANGES = {
    "tiers/redis/codec.py": [('LAYOUT, SLIDING = b"01", b"03"', 'LAYOUT, SLIDING = b"04", b"05"')],
    "tiers/redis/scripts.lua": [("'03v'", "'05v'"), ("['01v'] = true, ['01d'] = true", "['04v'] = true, ['04d'] = true")],
}


def newer_version(folder: Path) -> Path:
    """Makes a newer version of the package and returns the folder that it is in."""
    shutil.copytree(ROOT / "cache_sidecar", folder / "cache_sidecar", ignore=shutil.ignore_patterns("__pycache__", "target"))
    for name, changes in CHANGES.items():
        file = folder / "cache_sidecar" / name
        text = file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
    return folder


def released_version(version: str, folder: Path) -> Path:
    """Returns a folder with the package of a released version; skips the test if git does not have it."""
    commit = json.loads((RELEASES / version / "data.json").read_text())["commit"]
    try:
        checkout(commit, folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"this clone lacks the commit of {version}, {commit}: 'git fetch --unshallow'")
    return folder


OTHER_RECORDS = "other records"
pytestmark = pytest.mark.parametrize(
    "pair", [OTHER_RECORDS, *sorted(folder.name for folder in RELEASES.iterdir())], indirect=True
)


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path | None, Path | None]:
    """The folders of the older and of the newer version; None for the one that is tested."""
    if request.param == OTHER_RECORDS:
        return None, newer_version(tmp_path / "newer")
    return released_version(request.param, tmp_path / "older"), None


@pytest.fixture
def differ(pair: tuple[Path | None, Path | None]) -> bool:
    """Whether their records differ, so that each takes the other's for a miss."""
    return pair[1] is not None


@pytest.fixture
async def versions(
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    choose_ports: ChoosePorts,
    tmp_path: Path,
    pair: tuple[Path | None, Path | None],
) -> AsyncIterator[tuple[Shop, Shop]]:
    """A sidecar of the older version, and one of the newer."""
    config = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": database,
        "namespace": namespace,
        **PATIENT,
    }
    async with AsyncExitStack() as stack:
        nodes = ",".join(valkey_cluster.addresses)
        await stack.enter_async_context(relaying(settings_for(nodes, database, namespace)))
        shops = []
        for code, port in zip(pair, choose_ports(2), strict=True):
            address = f"127.0.0.1:{port}"
            # A released version has no native engine of its own here.
            engine = "aio" if code and (code / "protos").exists() else "auto"
            settings = config | {"listen_address": address, "engine": engine}
            await stack.enter_async_context(process("serve", tmp_path, settings, code=code))
            await serving(address, seconds=120)  # it compiles a copy of itself first
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            shops.append(Shop(Sidecar(address, channel)))
        for shop in shops:
            await until(lambda shop=shop: reads_redis(shop))
        yield shops[0], shops[1]


async def unreadable(shop: Shop) -> dict[str, int]:
    """Returns how many values of another version were found in Redis, by dataset; none of them is an error."""
    rows = [row for row in (await shop.admin.GetStats(admin.GetStatsRequest())).tiers if row.tier == "l2"]
    assert not any(row.errors for row in rows)
    return {row.dataset: row.unreadable for row in rows}


async def test_products_are_right_and_other_records_are_a_miss(versions: tuple[Shop, Shop], differ: bool) -> None:
    older, newer = versions
    for reader, writer in (versions, versions[::-1]):
        id = (await writer.create(title="0")).product_id
        found = await reader.get(id)
        assert (found.product.title, found.cache.source) == ("0", STORE if differ else L2)
        assert ((await unreadable(reader))["product"] > 0) == differ
        for number in range(1, 6):
            await writer.update(id, "title", title=str(number))
            # It is announced to the other, however the record of it looks.
            await until(lambda id=id, number=number, reader=reader: _title_is(reader, id, str(number)))
            assert (await writer.get(id)).product.title == str(number)
        await writer.delete(id)
        await until(lambda id=id, reader=reader: _is_gone(reader, id))
    id = (await older.create()).product_id
    assert (await older.get(id)).cache.source in {L2, STORE}
    assert (await newer.get(id)).product.product_id == (await older.get(id)).product.product_id == id


async def _title_is(shop: Shop, id: str, title: str) -> bool:
    return (await shop.get(id)).product.title == title


async def _is_gone(shop: Shop, id: str) -> bool:
    try:
        await shop.get(id)
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.NOT_FOUND
    return False


async def test_carts_and_sessions_are_what_either_wrote_last(versions: tuple[Shop, Shop], differ: bool) -> None:
    customers = [Customer(shop.sidecar) for shop in versions]
    for number in range(1, 11):
        await customers[number % 2].add("anna", item("mug"))
        for customer in customers:
            assert lines(await customer.cart("anna")) == {"mug": number}
    for writer, reader in (customers, customers[::-1]):
        session_id = await writer.create("anna", basket="full")
        for customer in (reader, writer, reader):
            assert (await customer.session(session_id)).session.attributes == {"basket": "full"}
        await reader.touch(session_id)
        assert (await writer.session(session_id)).session.user_id == "anna"
        assert await reader.log_out_everywhere("anna") == 1
        for customer in customers:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await customer.session(session_id)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    for shop in versions:
        counts = await unreadable(shop)
        assert (counts["cart"] > 0, counts["session"] > 0) == (differ, differ)


async def test_together_they_reserve_exactly_what_there_is(versions: tuple[Shop, Shop]) -> None:
    rooms = [Stockroom(shop.channel) for shop in versions]
    await rooms[0].set("mug", 15)
    reserved = await asyncio.gather(*(rooms[n % 2].reserve({"mug": 1}) for n in range(30)), return_exceptions=True)
    refused = [one for one in reserved if isinstance(one, BaseException)]
    assert len(refused) == 15
    assert {one.code() for one in refused if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.FAILED_PRECONDITION}
    ids = [one.reservation_id for one in reserved if not isinstance(one, BaseException)]
    await rooms[1].release(ids[0])
    await rooms[0].commit(ids[1])
    for room in rooms:
        await until(lambda room=room: _numbers_are(room, (1, 13)))
    for room, shop in zip(rooms, versions, strict=True):
        assert (await room.numbers("mug", bypass=True)) == (1, 13)
        await unreadable(shop)


async def _numbers_are(room: Stockroom, wanted: tuple[int, int]) -> bool:
    return await room.numbers("mug") == wanted
