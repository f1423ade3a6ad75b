"""What does not need a MongoDB to be tested: its URI, its client that is missing, and the lag of the copy as sidecars see it."""

from pathlib import Path

import pytest

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.services.event_copy import BEHIND, EventCopyLag
from cache_sidecar.store.user_event import UserEventStore
from tests.integration.test_cli import run as command
from tests.support.databases import open_database, run

NOWHERE = "mongodb://127.0.0.1:1/shop"


def variables(database: str, uri: str = "") -> dict[str, str]:
    return {"CACHE_SIDECAR_POSTGRES_CATALOG": database, "CACHE_SIDECAR_MONGODB_URI": uri}


async def test_a_sidecar_reports_a_copy_that_is_behind(database: str) -> None:
    dependencies = Dependencies(is_logged=False)
    async with open_database(database) as opened:
        lag = EventCopyLag(UserEventStore(opened), lambda: dependencies.of("mongodb"))
        await lag.look()
        assert (lag.seconds, dependencies.all()) == (None, []), "nothing is copied"
        confirmed = "now() - make_interval(secs => %s)"
        await run(
            database,
            f"INSERT INTO cache_sidecar.event_relays (region, mark, update_time) VALUES ('MongoDB', 0, {confirmed})",
            [BEHIND / 10],
        )
        await lag.look()
        assert BEHIND / 10 <= (lag.seconds or 0) < BEHIND
        assert dependencies.failing() == []
        await run(database, f"UPDATE cache_sidecar.event_relays SET update_time = {confirmed}", [BEHIND])
        await lag.look()
        (failing,) = dependencies.failing()
        assert failing.what == "mongodb"
        await run(database, "UPDATE cache_sidecar.event_relays SET update_time = now()")
        await lag.look()
        assert dependencies.failing() == []


async def test_without_mongodb_it_says_so(database: str) -> None:
    assert await command("analytics", "top", "--store", "mongodb", **variables(database)) == (
        64,
        "",
        "cache-sidecar: mongodb_uri is not set: events are only in PostgreSQL\n",
    )
    code, _, err = await command("analytics", "top", "--store", "mongodb", **variables(database, NOWHERE))
    assert (code, len(err.splitlines())) == (69, 1)
    assert "127.0.0.1:1" in err
    assert "Topology" not in err


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("postgresql://host/shop", "must be a URI such as mongodb://"),
        ("mongodb://shop:p%40ss:word@host/shop", "mongodb_uri: "),
        ("mongodb://shop:a/b@host/shop", "must be a URI such as mongodb://"),
        ("mongodb://host/shop?maxpoolsise=1", "maxpoolsize"),
        ("mongodb://host/shop?tlsCAFile=/nowhere.pem", "mongodb_uri: The tlscafile file is not readable"),
    ],
)
async def test_an_invalid_uri_is_one_line(database: str, uri: str, problem: str) -> None:
    code, out, err = await command("analytics", "top", "--store", "mongodb", **variables(database, uri))
    assert (code, out, len(err.splitlines())) == (64, "", 1)
    assert problem in err


async def test_without_its_client_it_says_what_to_install(database: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["pymongo"] = None\n')
    blocked = variables(database, NOWHERE) | {"PYTHONPATH": str(tmp_path)}
    for arguments in (["analytics", "top", "--store", "mongodb"], ["relay"]):
        code, _, err = await command(*arguments, **blocked, CACHE_SIDECAR_REDIS_NODES="127.0.0.1:1")
        assert (code, err) == (64, "cache-sidecar: mongodb_uri requires pymongo: pip install 'cache-sidecar[mongodb]'\n")
