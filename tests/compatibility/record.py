"""Records what a released version writes, for the tests of the versions after it.

    python -m tests.compatibility.record COMMIT

runs that version's own code, its `dev`, its sidecar and its `inject`, and writes the files of `releases/VERSION` that README.md lists.
"""

import asyncio
import base64
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import redis

from cache_sidecar.devstack.wheels import postgres_programs
from tests.support.customers import Customer, item
from tests.support.free_ports import later_ports
from tests.support.launch import Sidecar
from tests.support.shop import Shop
from tests.support.stockroom import Stockroom

ROOT = Path(__file__).parents[2]
RELEASES = Path(__file__).parent / "releases"
MANIFEST = ROOT / "tests/injector/files/shop.yaml"
NAMESPACE = "cs"
"The namespace of the keys that are recorded."


async def record(commit: str) -> Path:
    """Writes the files of the version that a commit is, in full; returns their folder."""
    with tempfile.TemporaryDirectory() as work:
        code = Path(work) / "code"
        checkout(commit, code)
        version = re.search(r'__version__ = "(.+)"', (code / "cache_sidecar/__init__.py").read_text())
        assert version
        folder = RELEASES / version[1]
        folder.mkdir(parents=True, exist_ok=True)
        async with _stack(code, Path(work) / "state") as stack:
            written = await _write(stack["sidecars"][0]["grpc"])
            dump = _dump_database(stack["databases"]["catalog"])
            records = _dump_redis([node["address"] for node in stack["redis"]])
        (folder / "schema.sql").write_text(dump)
        image = [
            Path(sys.executable).parent / "buf",
            "build",
            code / "protos",
            "--exclude-source-info",
            "-o",
            folder / "protos.binpb.gz",
        ]
        await asyncio.to_thread(subprocess.run, image, check=True)
        (folder / "data.json").write_text(
            json.dumps({"commit": commit, "moment": time.time(), **written, "redis": records}, indent=1) + "\n"
        )
        for name in ("config/policy.toml", "tiers/redis/codec.py"):
            shutil.copyfile(code / "cache_sidecar" / name, folder / Path(name).name)
        (folder / "settings.txt").write_text(_settings(code))
        (folder / "injected.yaml").write_text(_run(code, "inject", "-f", str(MANIFEST)))
        shutil.copyfile(MANIFEST, folder / "manifest.yaml")
    return folder


def checkout(commit: str, folder: Path) -> None:
    """Writes package and protos of a commit into a folder. Raises CalledProcessError if the commit is not in this clone."""
    folder.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit, "cache_sidecar", "protos"], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def _run(code: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "cache_sidecar", *arguments]
    return subprocess.run(command, cwd=code, check=True, capture_output=True, text=True).stdout


def _settings(code: Path) -> str:
    """Returns the names of a version's settings, one a line."""
    program = "from cache_sidecar.config.settings import Settings; print(*sorted(Settings.model_fields), sep='\\n')"
    return subprocess.run([sys.executable, "-c", program], cwd=code, check=True, capture_output=True, text=True).stdout


@contextlib.asynccontextmanager
async def _stack(code: Path, state: Path) -> AsyncIterator[dict[str, Any]]:
    """Runs `cache-sidecar dev` of a version; yields what its dev.json says."""
    (port,) = later_ports(1)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cache_sidecar", "dev", "--state", str(state), "--products", "1"),
        *("--listen", f"127.0.0.1:{port}", "--engine", "aio"),
        cwd=code,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(120):
            while not (state / "dev.json").exists():
                await asyncio.sleep(0.2)
        yield json.loads((state / "dev.json").read_text())
    finally:
        program.send_signal(signal.SIGTERM)
        await program.wait()


async def _write(address: str) -> dict[str, Any]:
    """Has a sidecar write something of everything; returns what has to be read again."""
    async with grpc.aio.insecure_channel(address) as channel:
        sidecar = Sidecar(address, channel)
        shop, customer, room = Shop(sidecar), Customer(sidecar), Stockroom(channel)
        await shop.create("mug", title="A mug")
        await shop.create("gone")
        await shop.delete("gone")
        session_id = await customer.create("ada", basket="full")
        await customer.add("ada", item("mug", 2))
        await room.set("mug", 10)
        reservation = await room.reserve({"mug": 3}, hold=86_400.0)
        for read in (shop.get("mug"), customer.session(session_id), customer.cart("ada"), room.get("mug")):
            await read
        product = (await shop.get("mug")).product
    return {"session_id": session_id, "reservation_id": reservation.reservation_id, "etag": product.etag}


def _dump_database(dsn: str) -> str:
    """Returns a database as SQL, without who owns what in it."""
    dumped = subprocess.run(
        [postgres_programs(18) / "pg_dump", "--inserts", "--no-owner", "--no-privileges", "--schema=cache_sidecar", dsn],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return "\n".join(line for line in dumped.splitlines() if line and not line.startswith(("--", "\\"))) + "\n"


def _dump_redis(addresses: list[str]) -> dict[str, dict[str, Any]]:
    """Returns the keys of the namespace: what each holds, as DUMP has it in Base64, and its time to live in ms.

    Without the watermarks of the relay, of which there are hundreds, and which the next relay writes within a second.
    """
    found = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        with redis.Redis(host, int(port)) as node:
            if node.info("replication")["role"] != "master":
                continue
            for key in sorted(node.scan_iter(f"{NAMESPACE}:*")):
                if key.startswith(f"{NAMESPACE}:told:".encode()):
                    continue
                dumped = node.dump(key)
                assert dumped is not None
                found[key.decode()] = {"dump": base64.b64encode(dumped).decode(), "ttl": node.pttl(key)}
    return dict(sorted(found.items()))


if __name__ == "__main__":
    resolved = subprocess.run(["git", "-C", ROOT, "rev-parse", sys.argv[1]], check=True, capture_output=True, text=True)
    print(asyncio.run(record(resolved.stdout.strip())))
