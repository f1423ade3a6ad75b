"""The README's cart sample prints what the README says."""

import asyncio
import re
import sys
from pathlib import Path

import psycopg
from redis.asyncio import Redis

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.support.customers import STORE, Customer, amounts, lines
from tests.support.launch import in_process, settings_for

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "127.0.0.1:50051"


def sample(text: str) -> tuple[str, str]:
    """Returns the Python of the section "A cart", and the output that stands below it."""
    _, heading, section = text.partition("\n## A cart\n")
    assert heading, "the README has no section `A cart`"
    section = section.partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (output,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    return code, output


async def test_the_cart_sample_prints_what_the_readme_says(valkey: ValkeyServer, database: str, namespace: str) -> None:
    code, output = sample(README.read_text())
    assert ADDRESS in code
    settings = settings_for(valkey.address, database, namespace, redis_mode="single")
    async with in_process(settings) as sidecar:
        for _ in range(2):  # it may be pasted again
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code.replace(ADDRESS, sidecar.address), stdout=asyncio.subprocess.PIPE
            )
            printed, _ = await process.communicate()
            assert process.returncode == 0
            assert printed.decode() == output
        async with await psycopg.AsyncConnection.connect(database) as connection:
            cursor = await connection.execute("SELECT user_id FROM cache_sidecar.carts")
            users = [user for (user,) in await cursor.fetchall()]
        assert len(users) == 2
        customer = Customer(sidecar)
        before = [await customer.read(user) for user in users]
        async with Redis.from_url(f"redis://{valkey.address}") as redis:
            await redis.flushall()
        for user, earlier in zip(users, before, strict=True):
            reply = await customer.read(user)
            assert (reply.cart, reply.cache.source) == (earlier.cart, STORE)
            assert (lines(reply.cart), amounts(reply.cart)) == ({"prod456": 2, "prod789": 1}, ["119.97 EUR"])
