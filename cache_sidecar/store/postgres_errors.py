"""What PostgreSQL's errors mean to callers, which of them a newer connection may cure, and which are logged."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict

from cache_sidecar.core import telemetry
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, ReadOnly, SettingsError, Tier, TierFailed
from cache_sidecar.store.connection import Connection, split_password_file

# The rows, as they are now, do not allow the statement: a constraint, a value, or a RAISE in a function of ours.
REJECTED_BY_ROWS = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException)
# The server or the way to it is gone, rather than the statement being wrong.
_GONE = (psycopg.OperationalError, psycopg.InterfaceError)
# Two transactions got in each other's way; the server is well.
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# A view that cannot be written through. The codes alone are too general: they count only from these source files.
_NOT_UPDATABLE = (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.FeatureNotSupported)
_VIEW_SOURCES = {"rewriteHandler.c", "execMain.c"}
# Something the session remembers no longer holds: plans and types from before a table was replaced, prepared statements that a
# pooler keeps on another connection, that the server is a primary, a transaction that was left open. PostgreSQL reports all of
# these per statement, so nothing was committed.
_OUTDATED = (
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.DuplicatePreparedStatement,
    psycopg.errors.InFailedSqlTransaction,
    psycopg.errors.InternalError_,  # "cache lookup failed", "could not open relation with OID"
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.ReadOnlySqlTransaction,
)
# "cached plan must not change result type"; "attribute 3 of type has been dropped".
_OUTDATED_SOURCES = {"plancache.c", "execExprInterp.c"}
_UNPREPARED = (psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)
# Classes of SQLSTATE that are about the statement's data or its transaction, and no sign that the database is unwell.
_ABOUT_DATA = {"21", "22", "23", "40", "44", "P0"}
# Effect on callers of a database that refuses statements.
REFUSES = "calls that need the refused statements fail with UNAVAILABLE"
# Seconds in which the same refused statement is logged once; statements remembered for that; characters logged of one.
_LOGGED_FOR = 60.0
_LOGGED = 100
_SHOWN = 300


class ErrorLog:
    """Logs the statements that one database refuses, each once a minute, and reports them to its dependency."""

    def __init__(self, dependency: Dependency | None) -> None:
        self._dependency = dependency
        self.oversells = 0
        "Statements that a CHECK of the table `inventory` refused, which would have left less than nothing."
        self._logged: dict[str, float] = {}
        "When an error of a statement was logged, in monotonic seconds."

    @contextmanager
    def map_errors(self) -> Iterator[None]:
        """Turns what psycopg raises into TierFailed, or ReadOnly for a view that cannot be updated."""
        try:
            yield
        except psycopg.Error as error:
            if is_read_only_view(error):
                raise ReadOnly(str(error).splitlines()[0]) from error
            failure = failure_of(error)
            if isinstance(error, psycopg.errors.CheckViolation) and error.diag.table_name == "inventory":
                self.oversells += 1
            if failure is Failure.REFUSED:
                self._report(error)
            raise TierFailed(Tier.STORE, failure, str(error)) from error

    def log_refusal(self, error: psycopg.Error, connection: Connection) -> None:
        """Logs a statement that PostgreSQL refuses, with its error."""
        if failure_of(error) is not Failure.REFUSED:
            return
        if isinstance(error, psycopg.errors.UniqueViolation) or is_read_only_view(error):
            return
        statement = _abbreviate(connection.statement)
        if not self._report(error, statement=statement) and not self.was_refused(error, connection):
            telemetry.log.warning("PostgreSQL refuses a statement", statement=statement, error=_without_values(error))
        self._note(_key(error, connection))

    def was_refused(self, error: psycopg.Error, connection: Connection) -> bool:
        """Whether the connection's last statement was refused with the same error within the last minute."""
        return self._is_noted(_key(error, connection))

    def log_renewal(self, error: psycopg.Error, connection: Connection) -> None:
        """Logs that connections are replaced because of an error, and notes that for `was_renewed`."""
        self._note(f"renewed {_key(error, connection)}")
        telemetry.log.warning(
            "replacing connections: the schema or the pooler changed under the old ones",
            statement=_abbreviate(connection.statement),
            error=_without_values(error),
        )

    def was_renewed(self, error: psycopg.Error, connection: Connection) -> bool:
        """Whether connections were replaced because of the same error within the last minute."""
        return self._is_noted(f"renewed {_key(error, connection)}")

    def _report(self, error: psycopg.Error, **facts: str) -> bool:
        """Reports a problem to the dependency until `check.py` finds none; returns whether that logged it."""
        # psycopg raises some without a code, before it sends anything: no text may contain a NUL.
        is_about_data = isinstance(error, psycopg.DataError) or (error.sqlstate or "")[:2] in _ABOUT_DATA
        if self._dependency is None or is_about_data:
            return False
        reason = error.diag.message_primary or str(error)  # the rest shows the statement, or the row
        if is_unprepared(error):
            reason += ": behind a PgBouncer before 1.21 in transaction mode, set postgres_prepare = false"
        return self._dependency.report_failure(reason, effect=REFUSES, problem=reason, **facts)

    def _note(self, key: str) -> None:
        if len(self._logged) >= _LOGGED:
            self._logged.clear()
        self._logged.setdefault(key, time.monotonic())

    def _is_noted(self, key: str) -> bool:
        noted_at = self._logged.get(key)
        if noted_at is not None and noted_at + _LOGGED_FOR <= time.monotonic():
            del self._logged[key]
            return False
        return noted_at is not None


def failure_of(error: psycopg.Error) -> Failure:
    """Returns the kind of failure that an error is, see `tiers/resilience/failure.py`."""
    if isinstance(error, _CONFLICTS):
        return Failure.CONFLICT
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return Failure.TIMEOUT
    # An error that the server reports has a code: 08 is a connection, 57P a server that stops or starts.
    is_gone = isinstance(error, _GONE) and (error.sqlstate is None or error.sqlstate.startswith(("08", "57P")))
    return Failure.UNREACHABLE if is_gone else Failure.REFUSED


def is_outdated(error: psycopg.Error) -> bool:
    """Whether an error may come from something the session remembers, so that a newer connection may not raise it."""
    return isinstance(error, _OUTDATED) or error.diag.source_file in _OUTDATED_SOURCES


def is_unprepared(error: psycopg.Error) -> bool:
    """Whether a prepared statement is missing or there twice, as behind a pooler that knows none."""
    return isinstance(error, _UNPREPARED)


def is_read_only_view(error: psycopg.Error) -> bool:
    """Whether a statement tried to write through a view that cannot be updated."""
    return isinstance(error, _NOT_UPDATABLE) and error.diag.source_file in _VIEW_SOURCES


def check_dsn(dsn: str) -> None:
    """Raises SettingsError for a DSN that libpq cannot parse, without libpq's own words: they would show the password."""
    try:
        conninfo_to_dict(split_password_file(dsn)[0])
    except psycopg.ProgrammingError:
        raise SettingsError(
            "a PostgreSQL URI cannot be read: it must be postgresql://user:password@host:5432/database?option=value, "
            "with libpq's names of options, and special characters percent-encoded"
        ) from None


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _key(error: psycopg.Error, connection: Connection) -> str:
    return f"{error.sqlstate} {connection.statement}"


def _abbreviate(statement: str) -> str:
    return " ".join(statement.split())[:_SHOWN]


def _without_values(error: psycopg.Error) -> str:
    """Returns the error's message, or only its type where the message may quote values: those are customers'."""
    name = type(error).__name__
    if isinstance(error, REJECTED_BY_ROWS):
        return name
    return f"{name}: {error.diag.message_primary or first_line(error)}"
