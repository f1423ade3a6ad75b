"""`cache-sidecar verify`: every difference between Redis and PostgreSQL is found, and those that are older than the bound."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from cache_sidecar import datasets
from cache_sidecar import verify as module
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import ServerUnreachable, SettingsError
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.tiers.ports import Expiry, Record
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.verify import Report, Verdict
from tests.integration.test_cli import GOOD
from tests.integration.test_cli import run as command
from tests.support import inside
from tests.support.databases import INSERT, SIDECAR, as_role, run
from tests.support.dataset_case import Direct, OpenL2
from tests.support.launch import settings_for

DELETED, GUESS = Record(90, 0.0, None), Record(0, 0.0, None)


class Shop:
    """A Redis and a PostgreSQL, and what is in them."""

    def __init__(self, redis: Any, database: str, namespace: str) -> None:
        self.redis, self.database, self.names = redis, database, KeyNames(namespace)
        self.versions: dict[str, int] = {}

    async def hold(self, id: str, data: Record | bytes, *, dataset: str = "product") -> None:
        """Puts something into Redis."""
        await self.redis.set(self.names.key(dataset, id), data if isinstance(data, bytes) else codec.encode(data))

    async def insert(self, *ids: str) -> None:
        for id in ids:
            await run(self.database, INSERT, [id, "Sofa"])
        self.versions = dict(await run(self.database, "SELECT product_id, version FROM cache_sidecar.products"))


@pytest.fixture
def settings(valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    return settings_for(valkey.address, as_role(SIDECAR, database), namespace, postgres_timeout=10.0)


@pytest.fixture
async def shop(valkey: ValkeyServer, database: str, namespace: str) -> Any:
    async with Redis.from_url(f"redis://{valkey.address}") as redis:
        yield Shop(redis, database, namespace)


async def verified(settings: Settings, *datasets: str, wait: Any = None) -> dict[str, Report]:
    async def at_once(_: float) -> None:
        pass

    reports = await module.verify(settings, datasets, progress=lambda *_: None, wait=wait or at_once)
    return {report.dataset: report for report in reports}


async def test_what_was_made_for_an_id_without_a_row_is_missing_from_other_datasets_only(
    shop: Shop, settings: Settings
) -> None:
    for dataset in ("recommendation", "product"):
        await shop.hold("made", Record(0, 0.0, b"list"), dataset=dataset)
        await shop.hold("had a row", Record(3, 0.0, b"list"), dataset=dataset)
    reports = await verified(settings, "recommendation", "product")
    assert reports["recommendation"].overdue == Counter({Verdict.MISSING: 1})
    assert reports["recommendation"].found == Counter({Verdict.SAME: 1, Verdict.MISSING: 1})
    assert reports["product"].overdue == Counter({Verdict.MISSING: 2})


async def test_nothing_is_compared_with_nothing(settings: Settings) -> None:
    reports = await verified(settings)
    assert list(reports) == [spec.name for spec in datasets.ALL]
    assert all(report.found.total() == report.overdue.total() == 0 for report in reports.values())


async def test_each_kind_of_difference_is_told_apart(settings: Settings, shop: Shop) -> None:
    await shop.insert("same", "older", "newer", "gone", "unseen")
    await shop.hold("same", Record(shop.versions["same"], 0.0, b"x"))
    await shop.hold("older", Record(shop.versions["older"] - 1, 0.0, b"x"))
    await shop.hold("newer", Record(shop.versions["newer"] + 1, 0.0, b"x"))
    await shop.hold("missing", Record(5, 0.0, b"x"))
    await shop.hold("deleted", DELETED)
    await shop.hold("none", GUESS)
    await shop.hold("gone", Record(shop.versions["gone"] - 1, 0.0, None))
    await shop.hold("unseen", GUESS)
    await shop.hold("mark", codec.invalidation(7))
    await shop.hold("unreadable", b"somebody else's")
    await shop.redis.set(f"{shop.names.namespace}:product:somebody", b"else's, who knows no tags")
    await shop.redis.set(b"%s:product:\xff" % shop.names.namespace.encode(), b"")
    report = (await verified(settings, "product"))["product"]
    assert report.found == Counter(
        {
            Verdict.SAME: 3,
            Verdict.OLDER: 3,
            Verdict.NEWER: 1,
            Verdict.MISSING: 1,
            Verdict.MARK: 1,
            Verdict.UNREADABLE: 1,
        }
    )
    assert report.overdue == Counter({Verdict.OLDER: 3, Verdict.NEWER: 1, Verdict.MISSING: 1})
    lines = list(report.lines())
    assert lines[0] == "product: 10 keys: 3 same, 3 older, 1 newer, 1 missing in PostgreSQL, 1 marks, 1 unreadable"
    assert lines[1] == "  different for more than 10 s: 3 older, 1 newer, 1 missing in PostgreSQL"
    assert "  'missing': version 5 in Redis, none in PostgreSQL" in lines
    assert f"  'unseen': none in Redis, version {shop.versions['unseen']} in PostgreSQL" in lines


async def test_what_is_put_right_within_the_bound_is_no_difference(settings: Settings, shop: Shop) -> None:
    await shop.insert("e", "a", "b", "c", "d")
    for id in "abcde":
        await shop.hold(id, Record(shop.versions[id] - 1, 0.0, b"x"))
    waited: list[float] = []

    async def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        await shop.hold("a", Record(shop.versions["a"], 0.0, b"x"))
        await shop.redis.unlink(shop.names.key("product", "b"))
        await shop.hold("c", codec.invalidation(shop.versions["c"]))
        await shop.hold("e", Record(shop.versions["e"] + 1, 0.0, b"x"))  # different again, but for how long?

    report = (await verified(settings, "product", wait=meanwhile))["product"]
    assert waited == [10.0]
    assert report.found == Counter({Verdict.OLDER: 5})
    assert report.overdue == Counter({Verdict.OLDER: 1})


async def test_many_differences_take_no_more_memory(settings: Settings, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOUBTS", 600)
    pipeline = shop.redis.pipeline(transaction=False)
    for number in range(2000):
        pipeline.set(shop.names.key("product", f"p{number}"), codec.encode(Record(5, 0.0, b"x")))
    await pipeline.execute()
    waits: list[float] = []

    async def counted(seconds: float) -> None:
        waits.append(seconds)

    report = (await verified(settings, "product", wait=counted))["product"]
    assert report.found[Verdict.MISSING] >= 2000
    assert report.overdue[Verdict.MISSING] >= 2000
    assert len(waits) == 2
    assert len(list(report.lines())) == 2 + module.SHOWN


async def test_the_datasets_of_every_table_are_compared(settings: Settings, shop: Shop) -> None:
    await run(shop.database, "INSERT INTO cache_sidecar.carts (user_id) VALUES ('u1')")
    await run(shop.database, "INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('p1', 5)")
    await run(
        shop.database,
        "INSERT INTO cache_sidecar.sessions (session_hash, use_time, end_time) VALUES (repeat('a', 64), now(), now() + interval '1 day')",
    )
    versions = dict(await run(shop.database, "SELECT dataset, version FROM cache_sidecar.outbox"))
    expiry = Expiry(4e9, None, 4e9)
    await shop.hold("p1", Record(versions["inventory"], 0.0, b"x"), dataset="inventory")
    await shop.hold("a" * 64, Record(versions["session"], 0.0, b"x", expiry), dataset="session")
    await shop.hold("u1", Record(versions["cart"] - 1, 0.0, b"x", expiry), dataset="cart")
    reports = await verified(settings)
    assert reports["inventory"].found == reports["session"].found == Counter({Verdict.SAME: 1})
    assert reports["cart"].overdue == Counter({Verdict.OLDER: 1})
    assert "u1" not in "".join(reports["cart"].lines()), "what says something of a customer is not shown"


async def test_on_a_cluster(open_either: OpenL2, database: str, namespace: str) -> None:
    async with open_either() as l2:
        nodes = ",".join(f"{host}:{port}" for host, port in inside.connection_of(l2).nodes)
        client = Direct(l2)
        for number in range(100):
            await client.set(inside.names_of(l2).key("product", f"p{number}"), codec.encode(GUESS))
        report = (await verified(settings_for(nodes, database, namespace), "product"))["product"]
        assert report.found == Counter({Verdict.SAME: 100})


async def test_a_dataset_that_is_not_there_and_servers_that_are_away(settings: Settings) -> None:
    with pytest.raises(
        SettingsError, match="there is no dataset 'sofa'; there are: product_list, product_page, product_search, product, "
    ):
        await verified(settings, "sofa")
    away = settings.model_copy(update={"redis_nodes": ("127.0.0.1:1",)})
    with pytest.raises(ServerUnreachable, match="Redis: "):
        await verified(away)


async def test_the_command_says_what_it_found_by_its_code(
    valkey: ValkeyServer, database: str, namespace: str, shop: Shop, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[product]\nstaleness_bound = 0.01\n")
    variables = {
        "CACHE_SIDECAR_REDIS_NODES": valkey.address,
        "CACHE_SIDECAR_POSTGRES_CATALOG": database,
        "CACHE_SIDECAR_NAMESPACE": namespace,
        "CACHE_SIDECAR_REDIS_TIMEOUT": "5",
        "CACHE_SIDECAR_POLICY_FILE": str(policy),
    }
    await shop.hold("a", GUESS)
    (same, unreachable) = await asyncio.gather(
        command("verify", "--dataset", "product", **variables), command("verify", **GOOD)
    )
    assert same == (0, "product: 1 keys: 1 same, 0 older, 0 newer, 0 missing in PostgreSQL, 0 marks, 0 unreadable\n", "")
    assert (unreachable[0], unreachable[1]) == (69, "")
    assert unreachable[2].startswith("cache-sidecar: Redis: ")
    await shop.insert("a")
    code, out, err = await command("verify", **variables)
    assert (code, err) == (1, "")
    assert "  different for more than 0.01 s: 1 older" in out.splitlines()
