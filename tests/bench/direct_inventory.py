"""The reference for reservations: the conditional UPDATE alone, by psycopg.

Runs as a process of its own, `python -m tests.bench.direct_inventory granted|refused JOB.json`, as direct.py does.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psycopg
import uvloop

from tests.bench.direct import WORKERS, Read, measure

_UPDATE = """UPDATE cache_sidecar.inventory SET available = available - 1, reserved = reserved + 1
    WHERE product_id = %s AND bucket = 0 AND available >= 1 RETURNING available"""


async def _updates(dsn: str, *, is_granted: bool) -> list[Read]:
    async def updater() -> Read:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)

        async def update(product_id: str) -> object:
            found = await (await connection.execute(_UPDATE, (product_id,))).fetchall()
            assert bool(found) is is_granted, f"{product_id}: {found}"
            return found

        return update

    return list(await asyncio.gather(*(updater() for _ in range(WORKERS))))


def _main(kind: str, dsn: str, keys: Sequence[str]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        updates = runner.run(_updates(dsn, is_granted=kind == "granted"))
        print("ready", flush=True)
        for line in sys.stdin:
            result = runner.run(measure(updates, keys, float(line)))
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], **json.loads(Path(sys.argv[2]).read_text()))
