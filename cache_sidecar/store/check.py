"""Checks a database without waiting for a call to fail: its schema, the user's privileges, whether it accepts writes."""

from collections.abc import Callable, Sequence

from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.store.database import Database
from cache_sidecar.store.migrate import SHARED, migrations
from cache_sidecar.store.postgres_errors import REFUSES
from cache_sidecar.store.rights import LACKING, RELATIONS, Relation, Rights, list_needs

MIGRATE = "run `cache-sidecar migrate`"
GRANT = f"{MIGRATE} with postgres_sidecar_role and postgres_relay_role, or grant them"


class DatabaseCheck:
    """Checks one database, and reports what it finds to its dependency."""

    def __init__(
        self,
        database: Database,
        roles: Sequence[str],
        dependency: Dependency,
        *,
        rights: Rights,
        language: str = "",
        unreachable: Callable[[TierFailed], None],
    ) -> None:
        """`roles` are those that the settings give it; `unreachable` is called when it does not answer.

        `language` is that of searches in the settings, empty if it does not matter.
        """
        self._database = database
        self._roles = roles
        self._dependency = dependency
        self._rights = rights
        self._language = language
        self._unreachable = unreachable

    async def run(self, began: float) -> None:
        """Checks once. `began` is the present monotonic time: problems reported since then stay. Raises TierFailed."""
        try:
            found = {"schema": await self._schema()}
            if not found["schema"]:
                found |= {"privileges": await self._privileges(), "read only": await self._standby()}
            language = await self._other_language() if not any(found.values()) else ""
        except TierFailed as error:
            if error.failure in {Failure.UNREACHABLE, Failure.TIMEOUT}:
                self._unreachable(error)
            raise
        for problem, reason in found.items():
            if reason:
                self._dependency.report_failure(reason, effect=REFUSES, problem=problem)
        if language:
            self._dependency.report_failure(language, effect="products are found in that language", problem="search language")
        self._dependency.report_success(before=began)

    async def _schema(self) -> str:
        ((there,),) = await self._database.fetch("SELECT to_regclass('cache_sidecar.migrations')::text", [])
        if there is None:
            return f'relation "cache_sidecar.migrations" does not exist: {MIGRATE}'
        applied = set(await self._database.fetch("SELECT role, name FROM cache_sidecar.migrations", []))
        wanted = [(role, migration.name) for role in (SHARED, *self._roles) for migration in migrations(role)]
        missing = [f"{role}/{name}" for role, name in wanted if (role, name) not in applied]
        return f"migrations {', '.join(missing)} were not applied: {MIGRATE}" if missing else ""

    async def _privileges(self) -> str:
        relations = [Relation(*row) for row in await self._database.fetch(RELATIONS, [])]
        ((user,),) = await self._database.fetch("SELECT current_user::text", [])
        lacking = await self._database.fetch(LACKING, [*list_needs(self._rights, relations), user])
        found = "; ".join(f"the user lacks {privilege} on {names}" for privilege, names in lacking)
        return f"{found}: {GRANT}" if found else ""

    async def _other_language(self) -> str:
        if not self._language or "catalog" not in self._roles:
            return ""
        ((present,),) = await self._database.fetch("SELECT language FROM cache_sidecar.product_search_state", [])
        is_same = present in {self._language, f"pg_catalog.{self._language}", f"public.{self._language}"}
        return "" if is_same else f"search_language is {self._language}, but products are indexed in {present}: {MIGRATE}"

    async def _standby(self) -> str:
        # default_transaction_read_only has no effect: see connection.py.
        ((is_standby,),) = await self._database.fetch("SELECT pg_is_in_recovery()", [])
        reason = (
            "the server is a standby and does not accept writes: use the primary's address, or target_session_attrs=read-write"
        )
        return reason if is_standby else ""
