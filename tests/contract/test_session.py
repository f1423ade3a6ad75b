"""SessionService as its callers see it, through two sidecars that share Redis and PostgreSQL."""

from typing import Any

import psycopg
import pytest
from grpc import StatusCode
from redis.asyncio import Redis

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.services.session import hash_of
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from tests.support.customers import L2, STORE, Customer, new_request, new_user
from tests.support.shop import Open, Refusal, refused


async def gone(customer: Customer, session_id: str) -> bool:
    """Whether a session is over."""
    try:
        await customer.session(session_id)
    except Exception:  # noqa: BLE001  # looked at below
        refusal: Refusal = await refused(customer.session(session_id))
        return (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
    return False


async def test_a_session_is_created_and_read_on_every_sidecar(customers: tuple[Customer, Customer]) -> None:
    client = SessionClient(ip_address="192.0.2.7", user_agent="Browser/1")
    created = await customers[0].sessions.CreateSession(
        pb.CreateSessionRequest(user_id="ann", attributes={"theme": "dark"}, client=client)
    )
    assert len(created.session_id) == 43
    session = created.session
    assert (session.session_id, session.user_id, dict(session.attributes)) == ("", "ann", {"theme": "dark"})
    assert session.client == client
    assert session.expire_time.seconds - session.create_time.seconds == 1800
    assert session.end_time.seconds - session.create_time.seconds == 30 * 86400
    for customer in customers:
        reply = await customer.session(created.session_id)
        assert reply.cache.source == L2
        assert reply.cache.version == int(session.etag, 16)
        assert reply.session.expire_time.ToDatetime() >= session.expire_time.ToDatetime()
        reply.session.expire_time.CopyFrom(session.expire_time)
        assert reply.session == session


async def test_ids_are_256_random_bits_and_no_two_are_the_same(customer: Customer) -> None:
    ids = {await customer.create() for _ in range(50)}
    assert len(ids) == 50
    assert all(
        len(id) == 43 and set(id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") for id in ids
    )


@pytest.mark.parametrize("session_id", ["x", "é" * 256, "{}:*", "0" * 64, " "])
async def test_an_unknown_session_is_not_found_and_its_id_not_repeated(customer: Customer, session_id: str) -> None:
    for call in (customer.session(session_id), customer.touch(session_id)):
        refusal = await refused(call)
        assert refusal.code == StatusCode.NOT_FOUND
        assert refusal.metadata == {"resource": "session", "id": f"sha256:{hash_of(session_id)[:12]}"}


async def test_attributes_are_merged_key_by_key(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    id = await first.create("", a="1", b="2", c="3")

    async def update(*paths: str, **attributes: str) -> dict[str, str]:
        request = pb.UpdateSessionRequest(session=Session(session_id=id, attributes=attributes))
        request.update_mask.paths.extend(paths)
        reply = await first.sessions.UpdateSession(request)
        assert (await second.session(id)).session.attributes == reply.session.attributes
        assert reply.session.session_id == ""
        return dict(reply.session.attributes)

    assert await update(b="20", d="4") == {"a": "1", "b": "20", "c": "3", "d": "4"}
    assert await update("attributes", e="") == {"a": "1", "b": "20", "c": "3", "d": "4", "e": ""}
    assert await update("attributes.a", "attributes.b", b="21", c="ignored") == {"b": "21", "c": "3", "d": "4", "e": ""}
    assert await update("attributes.x.y", **{"x.y": "z"}) == {"b": "21", "c": "3", "d": "4", "e": "", "x.y": "z"}


async def test_a_star_replaces_all_of_it(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    id = await first.create("", a="1", b="2")
    request = pb.UpdateSessionRequest(session=Session(session_id=id, user_id=user, attributes={"b": "3", "c": "4"}))
    request.update_mask.paths.append("*")
    assert dict((await first.sessions.UpdateSession(request)).session.attributes) == {"b": "3", "c": "4"}
    assert await second.log_out_everywhere(user) == 1, "it counts as one that joined the user's sessions"
    id = await first.create(user, a="1")
    request = pb.UpdateSessionRequest(session=Session(session_id=id))
    request.update_mask.paths.append("*")
    replaced = (await first.sessions.UpdateSession(request)).session
    assert (replaced.user_id, replaced.client, dict(replaced.attributes)) == ("", SessionClient(), {})


async def test_a_login_names_the_user_and_keeps_the_rest(customer: Customer) -> None:
    id, user = await customer.create("", cart="guest-7"), new_user()
    request = pb.UpdateSessionRequest(session=Session(session_id=id, user_id=user))
    session = (await customer.sessions.UpdateSession(request)).session
    assert (session.user_id, dict(session.attributes)) == (user, {"cart": "guest-7"})
    request.update_mask.paths.append("client")
    request.session.client.user_agent = "App/2"
    session = (await customer.sessions.UpdateSession(request)).session
    assert (session.user_id, session.client.user_agent) == (user, "App/2")
    assert await customer.log_out_everywhere(user) == 1


async def test_an_update_whose_etag_lost_is_aborted(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    id = await first.create()
    etag = (await second.session(id)).session.etag
    won = await first.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, user_id="a", etag=etag)))
    refusal = await refused(
        second.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, user_id="b", etag=etag)))
    )
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal.metadata["etag"] == won.session.etag
    assert id not in str(refusal)
    assert (await second.session(id)).session.user_id == "a"


async def test_use_alone_changes_no_etag(customer: Customer) -> None:
    id = await customer.create()
    etag = (await customer.session(id)).session.etag
    await customer.touch(id)
    assert (await customer.session(id)).session.etag == etag


async def test_attributes_are_bounded_also_by_what_is_there_already(customer: Customer) -> None:
    id = await customer.create("", **{f"k{number}": "v" for number in range(64)})
    update = pb.UpdateSessionRequest(session=Session(session_id=id, attributes={"more": "v"}))
    refusal = await refused(customer.sessions.UpdateSession(update))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"session.attributes"}
    assert len((await customer.session(id)).session.attributes) == 64


@pytest.mark.parametrize("user", ["a\0b", "a\nb", "u" * 129])
async def test_who_cannot_be_a_user_is_refused_without_asking_postgresql(customer: Customer, user: str) -> None:
    id = await customer.create("")
    update = pb.UpdateSessionRequest(session=Session(session_id=id, user_id=user))
    refusal = await refused(customer.sessions.UpdateSession(update))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"session.user_id"}
    assert (await customer.session(id)).session.user_id == ""


async def test_a_deleted_session_is_gone_on_every_sidecar(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    id, same = await first.create(), new_request()
    await second.session(id)
    for _ in range(2):  # a repeat gets the first reply
        assert not (
            await first.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id, request_id=same))
        ).revocation_pending
    assert await gone(second, id)
    assert await gone(first, id)
    for call in (
        second.touch(id),
        second.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id)),
        second.sessions.RotateSession(pb.RotateSessionRequest(session_id=id)),
        second.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, user_id="u"))),
    ):
        assert (await refused(call)).code == StatusCode.NOT_FOUND


async def test_rotation_keeps_the_content_and_kills_the_old_id(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    old = await first.create("ann", theme="dark")
    before = (await second.session(old)).session
    reply = await second.sessions.RotateSession(pb.RotateSessionRequest(session_id=old))
    assert reply.session_id != old
    assert not reply.revocation_pending
    for customer in customers:
        assert await gone(customer, old)
        session = (await customer.session(reply.session_id)).session
        assert (session.user_id, session.attributes) == (before.user_id, before.attributes)
        assert (session.create_time, session.end_time) == (before.create_time, before.end_time)


async def test_a_repeated_creation_gives_another_id_to_the_same_session(open_shop: Open, database: str) -> None:
    async with open_shop() as one, open_shop() as other:
        first, second = Customer(one.sidecar), Customer(other.sidecar)
        same = new_request()
        ids = [await customer.create("ann", same, a="1") for customer in (first, second, second)]
        assert len(set(ids)) == 3
        for customer in (first, second):
            assert [await gone(customer, id) for id in ids] == [True, True, False]
        rows = await _rows(database, "SELECT user_id FROM cache_sidecar.sessions WHERE delete_time IS NULL")
        assert rows == [("ann",)]
        refusal = await refused(first.create("ann", same, a="2"))
        assert refusal.reason == "REQUEST_ID_REUSED"
        await first.create("bob", same)
        assert not await gone(second, ids[-1])


async def test_a_repeated_rotation_gives_yet_another_id(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    old, request_id = await first.create("", a="1"), new_request()
    ids = [
        (await customer.sessions.RotateSession(pb.RotateSessionRequest(session_id=old, request_id=request_id))).session_id
        for customer in (first, second, first)
    ]
    assert [await gone(second, id) for id in (old, *ids)] == [True, True, True, False]
    assert dict((await first.session(ids[-1])).session.attributes) == {"a": "1"}


async def test_a_creation_repeated_after_the_session_ended_is_not_found(customer: Customer) -> None:
    same = new_request()
    id = await customer.create("", same)
    await customer.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id))
    assert (await refused(customer.create("", same))).code == StatusCode.NOT_FOUND


async def test_a_repeated_update_gets_the_first_reply(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    id = await first.create()
    request = pb.UpdateSessionRequest(session=Session(session_id=id, attributes={"n": "1"}), request_id=new_request())
    once = await first.sessions.UpdateSession(request)
    await first.sessions.UpdateSession(pb.UpdateSessionRequest(session=Session(session_id=id, attributes={"n": "2"})))
    assert await second.sessions.UpdateSession(request) == once
    assert dict((await second.session(id)).session.attributes) == {"n": "2"}
    await first.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=id))
    assert await second.sessions.UpdateSession(request) == once


async def test_a_users_sessions_are_listed_the_newest_first_without_their_ids(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    ids = [await first.create(user, n=str(number)) for number in range(5)]
    await first.create(new_user())
    await first.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=ids[3]))
    found, token = [], ""
    while True:
        reply = await second.sessions.ListUserSessions(pb.ListUserSessionsRequest(user_id=user, page_size=2, page_token=token))
        found += reply.sessions
        assert reply.cache.source == STORE
        token = reply.next_page_token
        if not token:
            break
    assert [session.attributes["n"] for session in found] == ["4", "2", "1", "0"]
    assert {session.session_id for session in found} == {""}
    assert not any(id in str(found) for id in ids)


async def test_log_out_everywhere_ends_all_of_a_users_sessions_and_no_others(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user, request_id = new_user(), new_request()
    ids = [await customer.create(user) for customer in (first, second, first)]
    other, guest = await first.create(new_user()), await first.create()
    for id in ids:
        await second.session(id)
    assert await first.log_out_everywhere(user, request_id) == 3
    assert [await gone(second, id) for id in ids] == [True] * 3
    assert await first.log_out_everywhere(user, request_id) == 3, "a repeat gets the first reply"
    assert await first.log_out_everywhere(user) == 0
    for id in (other, guest):
        assert not await gone(second, id)


async def test_the_session_id_is_nowhere(open_shop: Open, database: str, namespace: str, valkey_cluster: ValkeyCluster) -> None:
    """Not in any row of any table, nor in any key or value in Redis, nor in the metadata of any reply."""
    async with open_shop(log_level="debug") as shop:
        customer, request_id = Customer(shop.sidecar), new_request()
        await customer.create("ann", request_id, a="1")
        created = await customer.create("ann", request_id, a="1")
        await customer.session(created)
        await customer.sessions.UpdateSession(
            pb.UpdateSessionRequest(session=Session(session_id=created, user_id="bob"), request_id=new_request())
        )
        rotated = await customer.sessions.RotateSession(pb.RotateSessionRequest(session_id=created, request_id=new_request()))
        ids = [created.encode(), rotated.session_id.encode()]
        await customer.session(rotated.session_id)
        kept = await _everything(database)
        held = await _held(valkey_cluster, namespace)
    assert any(hash_of(rotated.session_id).encode() in data for data in kept)
    assert any(hash_of(rotated.session_id).encode() in data for data in held)
    for id in ids:
        assert not any(id in data for data in (*kept, *held))


async def _held(cluster: ValkeyCluster, namespace: str) -> list[bytes]:
    """Returns every key of a namespace, and every value."""
    held: list[bytes] = []
    for node in await cluster.primaries():
        async with Redis.from_url(f"redis://{node.address}") as redis:
            async for key in redis.scan_iter(match=f"{namespace}:*", count=1000):
                held += [key, await redis.get(key) or b""]
    return held


async def _everything(dsn: str) -> list[bytes]:
    tables = await _rows(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'cache_sidecar'")
    found: list[bytes] = []
    for (table,) in tables:
        # bytea is shown in hexadecimal: what was text in it is looked for as text.
        rows = await _rows(dsn, f"SELECT row_to_json(t)::text, t.* FROM cache_sidecar.{table} AS t")
        found += [value for row in rows for value in row if isinstance(value, bytes)]
        found += [value.encode() for row in rows for value in row if isinstance(value, str)]
    return found


async def _rows(dsn: str, text: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await (await connection.execute(text)).fetchall()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CreateSession", pb.CreateSessionRequest(user_id="a\n"), "user_id"),
        ("CreateSession", pb.CreateSessionRequest(user_id="a" * 129), "user_id"),
        ("CreateSession", pb.CreateSessionRequest(request_id="7"), "request_id"),
        ("CreateSession", pb.CreateSessionRequest(attributes={f"k{n}": "" for n in range(65)}), "attributes"),
        ("CreateSession", pb.CreateSessionRequest(attributes={"": "x"}), "attributes['']"),
        ("CreateSession", pb.CreateSessionRequest(attributes={"k": "x" * 1025}), "attributes['k']"),
        ("CreateSession", pb.CreateSessionRequest(client=SessionClient(user_agent="x" * 513)), "client.user_agent"),
        ("GetSession", pb.GetSessionRequest(), "session_id"),
        ("GetSession", pb.GetSessionRequest(session_id="a\x00"), "session_id"),
        ("TouchSession", pb.TouchSessionRequest(session_id="a" * 257), "session_id"),
        ("UpdateSession", pb.UpdateSessionRequest(), "update_mask"),
        ("UpdateSession", pb.UpdateSessionRequest(session=Session(user_id="u")), "session.session_id"),
        ("UpdateSession", pb.UpdateSessionRequest(session=Session(session_id="x", etag="1")), "update_mask"),
        ("DeleteUserSessions", pb.DeleteUserSessionsRequest(), "user_id"),
        ("ListUserSessions", pb.ListUserSessionsRequest(), "user_id"),
        ("ListUserSessions", pb.ListUserSessionsRequest(user_id="u", page_token="x"), "page_token"),
    ],
)
async def test_what_breaks_a_rule_is_refused(customer: Customer, method: str, request_: Any, field: str) -> None:
    refusal = await refused(getattr(customer.sessions, method)(request_))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert field in refusal.violations


@pytest.mark.parametrize(
    "paths",
    [["session_id"], ["expire_time"], ["attributes."], ["user_id.x"], ["nothing"], ["*", "user_id"], ["user_id"] * 101],
    ids=lambda paths: f"{len(paths)} {paths[0]}",
)
async def test_a_field_that_cannot_be_changed_is_refused(customer: Customer, paths: list[str]) -> None:
    request = pb.UpdateSessionRequest(session=Session(session_id=await customer.create()))
    request.update_mask.paths.extend(paths)
    refusal = await refused(customer.sessions.UpdateSession(request))
    assert set(refusal.violations) == {"update_mask"}
