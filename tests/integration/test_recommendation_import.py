"""`import recommendations`: a file is served as a whole, or what was there before."""

import asyncio
import csv
import gzip
import json
import os
import signal
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.run import BATCH_ROWS
from cache_sidecar.recommendations.generator import Kind
from cache_sidecar.services.recommendation_imports import RecommendationImports
from cache_sidecar.store.provided import Key, ProvidedStore
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_pb2 import ProvidedRecommendation, RecommendationList
from tests.support.databases import SIDECAR, as_role, open_database, run
from tests.support.imports import import_file
from tests.support.until import until

MORE_THAN_ONE_BATCH = 2 * BATCH_ROWS + 500


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def store(database: str) -> AsyncIterator[ProvidedStore]:
    async with open_database(database) as opened:
        yield ProvidedStore(opened)


async def served(store: ProvidedStore, user: str = "", product: str = "") -> list[str]:
    key = Key(user, product, Kind.RECOMMENDED_FOR_YOU if user else Kind.FREQUENTLY_BOUGHT_TOGETHER)
    found = await store.find([key])
    return list(found[key].product_ids) if found else []


def write_lists(file: Path, count: int, product_id: str = "sofa") -> str:
    """Writes a list for each of so many users."""
    file.write_text("".join(json.dumps({"user_id": f"u{n}", "recommendations": [product_id]}) + "\n" for n in range(count)))
    return str(file)


async def batches(database: str) -> list[tuple[object, ...]]:
    return await run(database, "SELECT state, next_list FROM cache_sidecar.recommendation_batches ORDER BY batch")


CSV = """user_id,product_id,model,recommendations,scores
ann,,,sofa|lamp,2|1
,sofa,,rug,
bob,,NONE,rug,
ann,,,desk,
"""


async def test_a_csv_file_with_the_rights_of_a_sidecar(store: ProvidedStore, database: str) -> None:
    Path("lists.csv").write_text(CSV + "".join(f"other {n},,,sofa,\n" for n in range(200)))
    report = await import_file("recommendations", "lists.csv", as_role(SIDECAR, database))
    assert (report.written, report.rejected, report.exit_code) == (202, {"model": 1}, 1)
    # The last list of a user counts.
    assert await served(store, "ann") == ["desk"]
    assert await served(store, product="sofa") == ["rug"]
    assert await served(store, "bob") == []


async def test_another_file_takes_the_place_of_the_first_one(store: ProvidedStore, database: str) -> None:
    await import_file("recommendations", write_lists(Path("monday.jsonl"), 20), database)
    await import_file("recommendations", write_lists(Path("tuesday.jsonl"), 10, "lamp"), database)
    assert (await served(store, "u1"), await served(store, "u15")) == (["lamp"], [])
    assert await batches(database) == [("served", 10)]
    # A file from before may be imported again.
    await import_file("recommendations", "monday.jsonl", database)
    assert (await served(store, "u1"), await served(store, "u15")) == (["sofa"], ["sofa"])


async def test_the_same_file_again_changes_nothing(store: ProvidedStore, database: str) -> None:
    file = write_lists(Path("lists.jsonl"), MORE_THAN_ONE_BATCH)
    first, again = [await import_file("recommendations", file, database) for _ in range(2)]
    assert (first.written, first.unchanged) == (MORE_THAN_ONE_BATCH, 0)
    assert (again.written, again.unchanged) == (0, MORE_THAN_ONE_BATCH)
    assert await batches(database) == [("served", MORE_THAN_ONE_BATCH)]


async def test_a_truncated_file_replaces_nothing(store: ProvidedStore, database: str) -> None:
    await import_file("recommendations", write_lists(Path("monday.jsonl"), 2), database)
    packed = gzip.compress(Path(write_lists(Path("tuesday.jsonl"), 5000, "lamp")).read_bytes())
    Path("tuesday.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"tuesday.jsonl.gz is truncated .* that were there before stay"):
        await import_file("recommendations", "tuesday.jsonl.gz", database)
    assert await served(store, "u1") == ["sofa"]
    assert await batches(database) == [("served", 2)]


async def test_a_file_of_which_much_is_rejected_replaces_nothing(store: ProvidedStore, database: str) -> None:
    await import_file("recommendations", write_lists(Path("monday.jsonl"), 2), database)
    Path("tuesday.jsonl").write_text('{"user": "u1"}\n' * 2 + Path(write_lists(Path("t"), 98, "lamp")).read_text())
    with pytest.raises(InputError, match=r"2 of 100 rows of tuesday.jsonl are rejected, more than 1%"):
        await import_file("recommendations", "tuesday.jsonl", database)
    rejected = csv.DictReader(Path("tuesday.jsonl.rejected.csv").read_text().splitlines())
    assert [(row["line"], row["reason"]) for row in rejected] == [("1", "unknown_field"), ("2", "unknown_field")]
    Path("wednesday.jsonl").write_text('{"user": "u1"}\n')
    with pytest.raises(InputError, match=r"1 of 1 rows .* stay; wednesday.jsonl.rejected.csv has the rows"):
        await import_file("recommendations", "wednesday.jsonl", database)
    Path("thursday.csv").write_text("user_id,recommendations\n")
    with pytest.raises(InputError, match="there is no list to import"):
        await import_file("recommendations", "thursday.csv", database)
    assert await served(store, "u1") == ["sofa"]


SCRIPT = """
import sys, uvloop
from cache_sidecar.importer.recommendations import IMPORT
from cache_sidecar.importer.run import import_rows
from cache_sidecar.importer.spec import Parts
parts = Parts(settings=None, policy=None)
work = import_rows(IMPORT, parts, source="-", dsn=sys.argv[1], format=None, rejects=None, progress=None, batch_id="nightly")
uvloop.run(work)
"""


async def test_an_import_that_was_killed_is_not_served_and_goes_on_where_it_was(store: ProvidedStore, database: str) -> None:
    await import_file("recommendations", write_lists(Path("monday.jsonl"), 2), database)
    file = write_lists(Path("tuesday.jsonl"), MORE_THAN_ONE_BATCH, "lamp")
    process = await create_subprocess_exec(sys.executable, "-c", SCRIPT, database, stdin=PIPE, env=dict(os.environ))
    assert process.stdin
    process.stdin.write(Path(file).read_bytes())
    await process.stdin.drain()
    stored = [("served", 2), ("open", 2 * BATCH_ROWS)]

    async def are_stored() -> bool:
        return await batches(database) == stored

    await until(are_stored)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process.stdin.close()
    assert await batches(database) == stored
    assert (await served(store, "u1"), await served(store, "u99")) == (["sofa"], [])
    report = await import_file("recommendations", file, database, batch_id="nightly")
    assert (report.written, report.unchanged) == (500, 2 * BATCH_ROWS)
    assert await served(store, f"u{MORE_THAN_ONE_BATCH - 1}") == ["lamp"]


async def test_of_a_stream_the_next_request_is_read_when_the_last_one_is_stored(store: ProvidedStore, database: str) -> None:
    """So the flow control of gRPC slows down a caller that sends faster than lists are stored."""
    read: list[int] = []
    given = [RecommendationList(user_id="ann", recommendations=[ProvidedRecommendation(product_id="sofa")])]

    async def requests() -> AsyncIterator[pb.ImportRecommendationsRequest]:
        for number in range(3):
            read.append(number)
            yield pb.ImportRecommendationsRequest(batch_id="b", first_list=number, lists=given)

    async def is_waiting() -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(await run(database, query))

    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("LOCK TABLE cache_sidecar.recommendation_batches")
        work = asyncio.create_task(RecommendationImports(store).receive(requests()))
        await until(is_waiting)
        assert read == [0]
        await connection.rollback()
        assert await work == pb.ImportRecommendationsResponse(next_list=3)
    assert read == [0, 1, 2]
