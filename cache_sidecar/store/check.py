"""What can be found out about a database without a caller: its schema, what its user may do, whether it takes writes."""

from collections.abc import Callable, Sequence

from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.store.migrate import SHARED, migrations
from cache_sidecar.store.pool import REFUSES, Database

MIGRATE = "run `cache-sidecar migrate`"
# A shop's own view may be for reading only.
_LACKING = """
    WITH needed AS (
        SELECT c.oid, c.relname, p.privilege
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
             unnest(CASE WHEN c.relkind = 'S' THEN ARRAY['USAGE']
                         WHEN c.relkind = 'v' OR c.relname = 'migrations' THEN ARRAY['SELECT']
                         ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END) AS p (privilege)
        WHERE n.nspname = 'cache_sidecar' AND c.relkind IN ('r', 'p', 'v', 'S')
    )
    SELECT privilege, string_agg(relname::text, ', ' ORDER BY relname)
    FROM needed
    WHERE NOT CASE WHEN privilege = 'USAGE' THEN has_sequence_privilege(oid, privilege)
                   ELSE has_table_privilege(oid, privilege) END
    GROUP BY privilege ORDER BY privilege"""


class DatabaseCheck:
    """Checks one database, and says what it finds."""

    def __init__(
        self, database: Database, roles: Sequence[str], dependency: Dependency, *, unreachable: Callable[[TierFailed], None]
    ) -> None:
        """`roles` are what it is to the shop; `unreachable` hears that it does not answer."""
        self._database = database
        self._roles = roles
        self._dependency = dependency
        self._unreachable = unreachable

    async def run(self, began: float) -> None:
        """Checks once. `began` is the monotonic time now: problems met since then stay. Raises TierFailed."""
        try:
            found = {"schema": await self._schema()}
            if not found["schema"]:
                found |= {"privileges": await self._privileges(), "read only": await self._standby()}
        except TierFailed as error:
            if error.failure in {Failure.UNREACHABLE, Failure.TIMEOUT}:
                self._unreachable(error)
            raise
        for problem, reason in found.items():
            if reason:
                self._dependency.failed(reason, effect=REFUSES, problem=problem)
        self._dependency.works(before=began)

    async def _schema(self) -> str:
        ((there,),) = await self._database.fetch("SELECT to_regclass('cache_sidecar.migrations')::text", [])
        if there is None:
            return f'relation "cache_sidecar.migrations" does not exist: {MIGRATE}'
        applied = set(await self._database.fetch("SELECT role, name FROM cache_sidecar.migrations", []))
        wanted = [(role, migration.name) for role in (SHARED, *self._roles) for migration in migrations(role)]
        missing = [f"{role}/{name}" for role, name in wanted if (role, name) not in applied]
        return f"migrations {', '.join(missing)} were not applied: {MIGRATE}" if missing else ""

    async def _privileges(self) -> str:
        lacking = await self._database.fetch(_LACKING, [])
        return "; ".join(f"the user lacks {privilege} on {names}" for privilege, names in lacking)

    async def _standby(self) -> str:
        # A default_transaction_read_only is not in the way: see connection.py.
        ((is_standby,),) = await self._database.fetch("SELECT pg_is_in_recovery()", [])
        reason = "the server is a standby, and takes no writes: name the primary, or target_session_attrs=read-write"
        return reason if is_standby else ""
