"""The README's samples run as printed, and the one of a cart prints what the README says."""

import asyncio
import re
import sys
from pathlib import Path

import psycopg
from redis.asyncio import Redis

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.support.customers import STORE, Customer, amounts, item, lines
from tests.support.launch import in_process, settings_for
from tests.support.recommended import learn_baskets
from tests.support.shop import Open
from tests.support.stockroom import Stockroom

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "127.0.0.1:50051"


def sample(title: str) -> tuple[str, str]:
    """Returns the Python of a section, and the output that stands below it, if there is one."""
    _, heading, section = README.read_text().partition(f"\n## {title}\n")
    assert heading, f"the README has no section {title!r}"
    section = section.partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert ADDRESS in code
    return code, "".join(re.findall(r"```text\n(.*?)```", section, re.DOTALL))


async def run(code: str, address: str) -> str:
    """Runs a sample against a sidecar, and returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code.replace(ADDRESS, address), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_the_cart_sample_prints_what_the_readme_says(valkey: ValkeyServer, database: str, namespace: str) -> None:
    code, output = sample("A cart")
    settings = settings_for(valkey.address, database, namespace, redis_mode="single")
    async with in_process(settings) as sidecar:
        for _ in range(2):  # it may be pasted again
            assert await run(code, sidecar.address) == output
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


async def test_the_page_sample_prints_what_the_page_has(open_shop: Open, database: str) -> None:
    code, _ = sample("A page by one call")
    async with open_shop() as shop:
        sofa = await shop.create("SKU-000001", title="A sofa")
        lamp = await shop.create(title="A lamp")
        await learn_baskets(database, ("ben", [sofa.product_id, lamp.product_id]))
        await Customer(shop.sidecar).add("ann", item(sofa.product_id, 2))
        assert await run(code, shop.address) == ("A sofa and 2 pieces in the cart\nno stock: NOT_FOUND\nalso: A lamp\n")
        await Stockroom(shop.channel).set(sofa.product_id, 7)
        assert "\n7 available\n" in await run(code, shop.address)
