"""Every two calls that change one resource, at once, through two sidecars, the second at each step of the first.

What they lead to, which is both replies, what PostgreSQL holds and what each sidecar shows, has to be what one of the two
serial orders of a plain model leads to.
"""

from collections.abc import AsyncIterator
from itertools import combinations_with_replacement
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.store.connection import Connection
from tests.support.customers import new_request
from tests.support.interleaving import Actor, meet
from tests.support.launch import in_process, settings_for
from tests.support.pairs import Op, Outcome, Resource, Through, Told, once, outcome, pattern, serial
from tests.support.pairs_of_carts import Carts
from tests.support.pairs_of_products import Products
from tests.support.pairs_of_sessions import Sessions
from tests.support.pairs_of_stock import Stock
from tests.support.until import until

RESOURCES: dict[str, Resource] = {"product": Products(), "session": Sessions(), "cart": Carts(), "stock": Stock()}
PAIRS = [
    pytest.param(resource, start, one, other, id=f"{name}-{start}-{one}-{other}".replace(" ", "_"))
    for name, resource in RESOURCES.items()
    for start, ops in resource.starts.items()
    for one, other in combinations_with_replacement(ops, 2)
]


@pytest.fixture(scope="module")
async def sidecars(valkey: ValkeyServer, postgres: Postgres, template: str) -> AsyncIterator[tuple[Through, Through]]:
    name = f"pairs_{uuid4().hex[:8]}"
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        made, of = sql.Identifier(name), sql.Identifier(template)
        await connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(made, of))
    dsn = postgres.dsn(name)
    settings = settings_for(valkey.address, dsn, name, redis_mode="single", redis_timeout=5.0, postgres_timeout=30.0)
    async with (
        in_process(settings) as one,
        in_process(settings) as other,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watching,
        await Connection.connect(dsn) as program,
        await Connection.connect(dsn) as another_program,
    ):
        yield Through(one, watching, program), Through(other, watching, another_program)


REPEATS = [
    pytest.param(resource, start, op, id=f"{name}-{start}-{op}".replace(" ", "_"))
    for name, resource in RESOURCES.items()
    for start, ops in resource.starts.items()
    for op in ops
    if not resource.ops[op].is_sql and op != "repeat creation"
]


@pytest.mark.parametrize(("resource", "start", "one", "other"), PAIRS)
async def test_two_calls_at_once_are_one_after_the_other(
    sidecars: tuple[Through, Through], resource: Resource, start: str, one: str, other: str
) -> None:
    for first, second in dict.fromkeys([(one, other), (other, one)]):
        a, b = resource.ops[first], resource.ops[second]
        allowed = serial(resource, start, [(a, "a"), (b, "b")]) | serial(resource, start, [(b, "b"), (a, "a")])
        await _meet(sidecars, resource, start, (a, b), allowed)


@pytest.mark.parametrize(("resource", "start", "op"), REPEATS)
async def test_a_call_and_its_repeat_at_once_are_one(
    sidecars: tuple[Through, Through], resource: Resource, start: str, op: str
) -> None:
    made = resource.ops[op]
    await _meet(sidecars, resource, start, (made, made), once(resource, start, made), is_repeat=True)


async def _meet(
    sidecars: tuple[Through, Through],
    resource: Resource,
    start: str,
    ops: tuple[Op, Op],
    allowed: set[Outcome],
    *,
    is_repeat: bool = False,
) -> None:
    """Makes two calls, the second after each step of the first, up to the last: after none of them is the other way round."""
    steps, goes_on = 1, True
    while goes_on:
        scene = await resource.scene(start, {op.name for op in ops}, sidecars[0])
        if resource.is_in_memory:
            for through in sidecars:
                await resource.seen(scene, through)
        actors = [Actor(through.watching) for through in sidecars]
        request_id = new_request() if is_repeat else ""
        for through, op, actor in zip(sidecars, ops, actors, strict=True):
            through.actor, through.held.actor, through.repeats = actor, actor, request_id
            actor.begin(outcome(op, scene, through))
        goes_on = await meet(actors[0], actors[1], steps)
        replies = [await actor.task for actor in actors]
        for through in sidecars:
            through.held.actor, through.repeats = None, ""
        a, b = [
            reply if isinstance(reply, Told) else op.read(scene, reply, by)
            for op, reply, by in zip(ops, replies, "ab", strict=True)
        ]
        if any(op.is_sql for op in ops):
            await resource.forget(scene, sidecars[0])
        about = f"{ops[0].name!r}, and {ops[1].name!r} after {steps} steps"
        assert [actor.deadlocks for actor in actors] == [0, 0], f"{about}, waited for each other"
        await _compare(sidecars, resource, scene, (a, b), allowed, about)
        steps += 1


async def _compare(
    sidecars: tuple[Through, Through],
    resource: Resource,
    scene: Any,
    told: tuple[Told, Told],
    allowed: set[Outcome],
    about: str,
) -> None:
    a, b = told
    stored = await resource.stored(scene, sidecars[0])
    led_to = f"{about}, were told {a.what} and {b.what}, and led to {stored}"
    wanted = "\n".join(map(str, allowed))
    assert (a.what, b.what, stored) in {(*one.told, one.shown) for one in allowed}, f"{led_to}; one by one that is\n{wanted}"
    for through in sidecars:
        # What is in its memory, a sidecar hears of in a moment.
        found: Outcome

        async def is_shown(through: Through = through) -> bool:
            nonlocal found
            shown, etag = await resource.seen(scene, through)
            found = Outcome((a.what, b.what), shown, pattern([resource.etag(scene), a.etag, b.etag, etag]))
            return shown == stored and found in allowed

        try:
            await until(is_shown)
        except AssertionError:
            pytest.fail(f"{led_to}; a sidecar shows {found}, and one by one that is\n{wanted}")
