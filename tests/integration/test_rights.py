"""The roles of sidecars and relays in PostgreSQL: what `migrate` grants is what they need, and no more."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.store import rights
from cache_sidecar.store.check import GRANT, DatabaseCheck
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.rights import Rights, grants
from tests.integration.test_cli import run as command
from tests.support.customers import Customer, item, new_user
from tests.support.databases import RELAY, SIDECAR, as_role, open_database, run
from tests.support.launch import in_process, process, settings_for
from tests.support.shop import Shop
from tests.support.stockroom import Stockroom
from tests.support.until import until

LONG_AGO = datetime.now(UTC) - timedelta(days=3)


@pytest.fixture
async def role(database: str, namespace: str) -> AsyncIterator[str]:
    """A role without any right."""
    name = f"role {namespace}"
    await run(database, f'CREATE ROLE "{name}"')
    yield name
    await run(database, f'DROP OWNED BY "{name}"')
    await run(database, f'DROP ROLE "{name}"')


async def granted(database: str, role: str) -> set[tuple[str, str, str]]:
    """Returns what a role was granted: relation, column or '', privilege."""
    found = await run(
        database,
        """SELECT c.relname, '', p.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS p
           WHERE c.relnamespace = 'cache_sidecar'::regnamespace AND p.grantee = %s::regrole
           UNION ALL
           SELECT c.relname, a.attname, p.privilege_type FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid,
                  aclexplode(a.attacl) AS p
           WHERE c.relnamespace = 'cache_sidecar'::regnamespace AND p.grantee = %s::regrole""",
        [f'"{role}"', f'"{role}"'],
    )
    return {(str(relation), str(column), str(privilege)) for relation, column, privilege in found}


async def test_a_relay_and_a_sidecar_do_all_their_work_with_their_roles(
    tmp_path: Path, valkey: ValkeyServer, database: str, namespace: str
) -> None:
    places = {"redis_nodes": valkey.address, "redis_mode": "single", "namespace": namespace}
    user = new_user()
    settings = settings_for(valkey.address, as_role(SIDECAR, database), namespace, redis_mode="single", postgres_timeout=10.0)
    async with (
        process("relay", tmp_path, places | {"postgres_catalog": as_role(RELAY, database)}) as relay,
        in_process(settings, relay=False) as sidecar,
    ):
        shop, customer, stock = Shop(sidecar), Customer(sidecar), Stockroom(sidecar.channel)
        made = await shop.create()
        await stock.set(made.product_id, 10, bucket_count=3)
        await stock.adjust(made.product_id, -1)
        held = await stock.reserve({made.product_id: 2}, user_id=user)
        await customer.add(user, item(made.product_id))
        await customer.create(user)
        assert await customer.log_out_everywhere(user) == 1
        await customer.create(user)
        # What the relay ends and deletes when it is due.
        at = LONG_AGO.isoformat()
        await run(database, f"UPDATE cache_sidecar.reservations SET expire_time = '{at}'")
        await run(database, f"UPDATE cache_sidecar.sessions SET use_time = '{at}' WHERE delete_time IS NULL")
        await run(database, f"UPDATE cache_sidecar.sessions SET delete_time = '{at}' WHERE delete_time IS NOT NULL")
        await run(database, f"UPDATE cache_sidecar.requests SET create_time = '{at}'")

        async def has_ended_and_deleted() -> bool:
            ((reservation, sessions, requests, available),) = await run(
                database,
                """SELECT (SELECT state FROM cache_sidecar.reservations), (SELECT count(*) FROM cache_sidecar.sessions),
                          (SELECT count(*) FROM cache_sidecar.requests),
                          (SELECT sum(available) FROM cache_sidecar.inventory)""",
            )
            return bool((reservation, sessions, requests, available) == ("expired", 0, 0, 9))

        await until(has_ended_and_deleted)
        assert held.reservation_id
        await shop.create()
        assert (await shop.get(made.product_id)).product.title == made.title
        assert sidecar.app is not None
        assert [one for one in sidecar.app.failing_dependencies() if one.what == "postgresql"] == []
        assert "permission denied" not in relay.log.read_text()

        values = places | {"postgres_catalog": as_role(SIDECAR, database)}
        file = tmp_path / "sidecar.toml"
        file.write_text("".join(f'{name} = "{value}"\n' for name, value in values.items()))
        (tmp_path / "products.csv").write_text("product_id,title,price,currency_code\nimported,A lamp,1.00,EUR\n")
        for arguments in (
            ["import", "products", str(tmp_path / "products.csv")],
            ["verify", "--dataset", "product"],
            ["user", "export", user],
            ["user", "erase", user],
        ):
            code, out, err = await command(*arguments, "--config", str(file))
            assert (code, "permission" in err) == (0, False), out + err


FORBIDDEN_TO_BOTH = [
    "CREATE TABLE cache_sidecar.other ()",
    "CREATE TABLE public.other ()",
    "CREATE SCHEMA other",
    "CREATE FUNCTION cache_sidecar.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE cache_sidecar.products DISABLE TRIGGER ALL",
    "DROP TRIGGER products_change ON cache_sidecar.products",
    "TRUNCATE cache_sidecar.products",
    "SET session_replication_role = replica",
    "CREATE TRIGGER t AFTER INSERT ON cache_sidecar.products FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('cart', 'x')",
    "UPDATE cache_sidecar.outbox SET id = 'another'",
    "INSERT INTO cache_sidecar.outbox (version, dataset, id, kind) VALUES (1, 'cart', 'ann', 'updated')",
    "UPDATE cache_sidecar.versions SET version = 1",
    "UPDATE cache_sidecar.migrations SET digest = ''",
    "DELETE FROM cache_sidecar.reservations",
    "SELECT setval('cache_sidecar.version_seq', 1)",
    "SELECT setval('cache_sidecar.position_seq', 1)",
    "SELECT * FROM shop.customers",
    "UPDATE cache_sidecar.user_events SET user_id = 'ann'",
    "INSERT INTO cache_sidecar.user_events SELECT * FROM cache_sidecar.user_events",
    "SELECT rolpassword FROM pg_authid",
    "SELECT pg_read_file('/etc/passwd')",
]
FORBIDDEN_TO_SIDECARS = [
    "DELETE FROM cache_sidecar.outbox",
    "UPDATE cache_sidecar.relays SET position = 0",
    "SELECT * FROM cache_sidecar.inventory_adjustments",
    "INSERT INTO cache_sidecar.recommendation_users (user_id, history) VALUES ('ann', '{}')",
    "SELECT * FROM cache_sidecar.recommendation_ahead",
    "SELECT cache_sidecar.clear_recommendations()",
    "SELECT cache_sidecar.drop_event_partitions(current_date)",
    "SELECT cache_sidecar.make_event_partition(current_date)",
]
FORBIDDEN_TO_RELAYS = [
    "SELECT * FROM cache_sidecar.products",
    "SELECT user_id FROM cache_sidecar.carts",
    "SELECT items FROM cache_sidecar.carts",
    "DELETE FROM cache_sidecar.carts",
    "SELECT user_id FROM cache_sidecar.sessions",
    "SELECT attributes FROM cache_sidecar.sessions",
    "SELECT ip_address FROM cache_sidecar.sessions",
    "UPDATE cache_sidecar.sessions SET user_id = 'ann'",
    "INSERT INTO cache_sidecar.sessions (session_hash, end_time, use_time) VALUES (repeat('0', 64), now(), now())",
    "SELECT reply FROM cache_sidecar.requests",
    "UPDATE cache_sidecar.requests SET reply = ''",
    "SELECT user_id FROM cache_sidecar.reservations",
    "UPDATE cache_sidecar.reservations SET user_id = 'ann'",
    "INSERT INTO cache_sidecar.inventory (product_id, available) VALUES ('x', 1)",
    "DELETE FROM cache_sidecar.inventory",
    "UPDATE cache_sidecar.inventory SET product_id = 'x'",
]


@pytest.mark.parametrize(
    ("name", "statements"),
    [(SIDECAR, FORBIDDEN_TO_BOTH + FORBIDDEN_TO_SIDECARS), (RELAY, FORBIDDEN_TO_BOTH + FORBIDDEN_TO_RELAYS)],
)
async def test_they_may_do_nothing_else(database: str, name: str, statements: list[str]) -> None:
    await run(database, "CREATE SCHEMA shop; CREATE TABLE shop.customers (name text)")
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await run(as_role(name, database), statement)


async def reported(database: str, role: str, kind: Rights) -> str:
    """Returns what a process that has a role reports about it."""
    dependency = Dependencies(is_logged=False).of("postgresql")
    async with open_database(as_role(role, database)) as opened:
        await DatabaseCheck(opened, ROLES, dependency, rights=kind, unreachable=lambda _: None).run(0.0)
    failing = dependency.failing()
    return failing.reason if failing else ""


@pytest.mark.parametrize(("name", "kind"), [(SIDECAR, rights.SIDECAR), (RELAY, rights.RELAY)])
async def test_what_a_role_lacks_is_reported(database: str, name: str, kind: Rights) -> None:
    """Each privilege is taken away, and the check names it; with all of them, it finds nothing."""
    assert await reported(database, name, kind) == ""
    for relation, column, privilege in sorted(await granted(database, name)):
        if relation == "migrations":
            continue  # the check itself is refused then, and reported as any statement is
        what = f"{privilege} ({column})" if column else privilege
        await run(database, f"REVOKE {what} ON cache_sidecar.{relation} FROM {name}")
        assert await reported(database, name, kind) == f"the user lacks {privilege} on {relation}: {GRANT}"
        await run(database, f"GRANT {what} ON cache_sidecar.{relation} TO {name}")
    assert await reported(database, name, kind) == ""


async def test_privileges_that_a_role_no_longer_needs_are_revoked(database: str, role: str) -> None:
    await migrate(database, *ROLES, grants=grants(sidecar="", relay=role))
    least = await granted(database, role)
    await run(database, f'GRANT ALL ON ALL TABLES IN SCHEMA cache_sidecar TO "{role}"')
    await run(database, f'GRANT SELECT (items) ON cache_sidecar.carts TO "{role}"')
    assert await granted(database, role) > least
    await migrate(database, *ROLES, grants=grants(sidecar="", relay=role))
    assert await granted(database, role) == least


async def test_one_role_may_be_both(database: str, role: str) -> None:
    await migrate(database, *ROLES, grants=grants(sidecar=role, relay=role))
    assert await granted(database, role) == await granted(database, SIDECAR) | await granted(database, RELAY)


async def test_the_table_of_a_new_dataset_is_granted_to_sidecars_only(database: str, role: str) -> None:
    await run(database, "CREATE TABLE cache_sidecar.gifts (number bigserial, identity bigint GENERATED ALWAYS AS IDENTITY)")
    for given in ({"sidecar": role, "relay": ""}, {"sidecar": "", "relay": role}):
        await migrate(database, *ROLES, grants=grants(**given))
        found = {(relation, privilege) for relation, _, privilege in await granted(database, role) if "gifts" in relation}
        every = {("gifts", privilege) for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")}
        assert found == (every if given["sidecar"] else set())


async def test_a_view_of_the_shop_may_be_read_only(database: str, role: str) -> None:
    await run(database, "CREATE SCHEMA shop; CREATE TABLE shop.goods AS SELECT * FROM cache_sidecar.products")
    await run(database, "DROP TABLE cache_sidecar.products; CREATE VIEW cache_sidecar.products AS SELECT * FROM shop.goods")
    assert await reported(database, SIDECAR, rights.SIDECAR) == f"the user lacks SELECT on products: {GRANT}"
    await migrate(database, *ROLES, grants=grants(sidecar=role, relay=""))
    assert {privilege for relation, _, privilege in await granted(database, role) if relation == "products"} == {
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
    }
    await run(database, f"GRANT SELECT ON cache_sidecar.products TO {SIDECAR}")
    assert await reported(database, SIDECAR, rights.SIDECAR) == ""


async def test_roles_that_cannot_be_used_are_one_line(database: str, role: str) -> None:
    async def refusal(**names: str) -> str:
        with pytest.raises(InputError) as raised:
            await migrate(database, *ROLES, grants=grants(**{"sidecar": "", "relay": ""} | names))
        return str(raised.value)

    assert await refusal(sidecar="nobody") == (
        "there is no role 'nobody' in PostgreSQL: create it with CREATE ROLE, or name an existing one"
    )
    assert "has all rights of the schema's owner" in await refusal(relay="postgres")
    await run(database, f'ALTER SCHEMA cache_sidecar OWNER TO "{role}"')
    assert "has all rights of the schema's owner" in await refusal(sidecar=role)
    await run(database, "ALTER SCHEMA cache_sidecar OWNER TO postgres")


async def test_an_owner_who_is_no_superuser_migrates_and_grants(valkey: ValkeyServer, database: str, namespace: str) -> None:
    """As on managed servers, where nobody is: with a database of its own, and roles that somebody else made."""
    name, owner = f"managed_{namespace}", f"owner_{namespace}"
    await run(database, f"CREATE ROLE {owner} LOGIN PASSWORD 'of-the-roles'")
    await run(database, f"CREATE DATABASE {name} OWNER {owner}")
    try:
        dsn = f"{as_role(owner, database).rpartition('/')[0]}/{name}"
        assert await migrate(dsn, *ROLES, grants=grants(sidecar=SIDECAR, relay=RELAY))
        assert await granted(dsn, SIDECAR) == await granted(database, SIDECAR)
        settings = settings_for(valkey.address, as_role(SIDECAR, dsn), namespace, redis_mode="single")
        async with in_process(settings) as sidecar:
            assert (await Shop(sidecar).create()).product_id
        # A view that belongs to somebody else.
        superuser = f"{database.rpartition('/')[0]}/{name}"
        await run(superuser, "CREATE VIEW cache_sidecar.theirs AS SELECT 1 AS one")
        with pytest.raises(InputError, match=r"^the database user may not migrate: permission denied for table theirs$"):
            await migrate(dsn, *ROLES, grants=grants(sidecar=SIDECAR, relay=""))
        await run(superuser, f"GRANT SELECT ON cache_sidecar.theirs TO {owner}")
        with pytest.raises(
            InputError, match=r"^the database user may not grant SELECT on theirs: have the owner grant it to 'cs_sidecar'"
        ):
            await migrate(dsn, *ROLES, grants=grants(sidecar=SIDECAR, relay=""))
    finally:
        await run(database, f"DROP DATABASE {name} WITH (FORCE)")
        await run(database, f"DROP ROLE {owner}")
